export interface Sent {
  method?: string;
  path?: string;
  type?: string;
  body?: string | Buffer;
}

export const HEX = /^[0-9a-f]{64}$/;

export interface Part {
  name: string;
  content: string | Buffer;
  filename?: string;
  type?: string;
}

export function form(parts: readonly Part[], boundary = 'boundary-1'): Sent {
  const lines = parts.flatMap(({ name, content, filename, type }) => [
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"`,
    filename === undefined ? '' : `; filename="${filename}"`,
    type === undefined ? '' : `\r\nContent-Type: ${type}`,
    '\r\n\r\n',
    content,
    '\r\n',
  ]);
  const body = Buffer.concat([...lines, `--${boundary}--\r\n`].map((line) => Buffer.from(line)));
  return { type: `multipart/form-data; boundary=${boundary}`, body };
}

export const SCAN: Part = {
  name: 'scan',
  filename: 'scan.pdf',
  type: 'application/pdf',
  content: Buffer.from([0, 255, 13, 10]),
};
export const INVOICE: Part = { name: 'invoice', filename: 'invoice.txt', type: 'text/plain', content: 'EUR 10' };
export const NOTE: Part = { name: 'note', content: 'für Jürgen' };
