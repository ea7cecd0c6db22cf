import { Converter } from 'typedoc';

/** Calls a page by its heading, not by its file, and an entry of the package by what one imports, not by its folder. */
export function load(app) {
  app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_context, document) => {
    const [first] = document.content;
    const heading = /^# +(.+)$/m.exec(first?.kind === 'text' ? first.text : '')?.[1];
    document.name = heading ?? document.name;
  });
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const entry of project.children ?? []) {
      const path = entry.name.replace(/^src\/?/, '');
      entry.name = path === '' ? 'nestjs-idempotency' : `nestjs-idempotency/${path}`;
    }
  });
}
