import { readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** A package as it lies on the disk. */
export interface Installed {
  name: string;
  version: string;
  directory: string;
}

/** This file, as stack traces name it; not by `import.meta`, which CommonJS does not have. */
const OWN_FILE = filesOf(new Error())[0];

/** The copy of this very library. */
export const OWN_PACKAGE = OWN_FILE === undefined ? undefined : packageAround(OWN_FILE);

/** The copy that this library gets when it asks for the package. */
export function ownCopyOf(name: string): Installed | undefined {
  for (let place = OWN_FILE && dirname(OWN_FILE); place !== undefined; place = parentOf(place)) {
    const found = readPackage(join(place, 'node_modules', name));
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

/** The copy whose code has called, as far back as the stack tells. */
export function callingCopyOf(name: string): Installed | undefined {
  return filesOf(new Error())
    .filter((file) => file.replaceAll('\\', '/').includes(`/node_modules/${name}/`))
    .map(packageAround)
    .find((found) => found?.name === name);
}

/** The copies that are loaded as CommonJS. */
export function loadedCopiesOf(name: string): Installed[] {
  const files = OWN_FILE === undefined ? [] : Object.keys(createRequire(OWN_FILE).cache);
  const copies = files
    .filter((file) => file.replaceAll('\\', '/').includes(`/node_modules/${name}/`))
    .map(packageAround);
  const byDirectory = new Map(copies.filter((copy) => copy?.name === name).map((copy) => [copy!.directory, copy!]));
  return [...byDirectory.values()];
}

/** For messages. */
export function described(copy: Installed | undefined): string {
  return copy === undefined ? 'one in a place that cannot be told' : `${copy.version} in ${copy.directory}`;
}

function packageAround(file: string): Installed | undefined {
  for (let place: string | undefined = dirname(file); place !== undefined; place = parentOf(place)) {
    const found = readPackage(place);
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

/** Nothing for a `package.json` that only says what kind of modules a folder has. */
function readPackage(directory: string): Installed | undefined {
  try {
    const { name, version } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Partial<Installed>;
    return name === undefined || version === undefined
      ? undefined
      : { name, version, directory: realpathSync(directory) };
  } catch {
    return undefined;
  }
}

function parentOf(directory: string): string | undefined {
  const parent = dirname(directory);
  return parent === directory ? undefined : parent;
}

function filesOf({ stack = '' }: Error): string[] {
  const places = [...stack.matchAll(/(?:\(|at )((?:file:\/\/|[/\\]|[A-Za-z]:[/\\])[^()]*?):\d+:\d+\)?$/gm)];
  return places.map(([, place]) => (place!.startsWith('file:') ? fileURLToPath(place!) : place!));
}
