import { print } from './command.js';

type Cell = string | number | null | undefined;

const BOLD = '\u001B[1m';
const PLAIN = '\u001B[0m';

/** Columns on a terminal; elsewhere, for other programs to cut, values with tabs between them, and no line of names. */
export function printTable(names: readonly string[], rows: readonly (readonly Cell[])[]): void {
  const texts = rows.map((row) => row.map((cell) => printable(cell)));
  if (process.stdout.isTTY !== true) {
    texts.forEach((row) => print(row.join('\t')));
    return;
  }
  const widths = names.map((name, column) => Math.max(name.length, ...texts.map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string =>
    row
      .map((text, column) => text.padEnd(widths[column]!))
      .join('  ')
      .trimEnd();
  print(`${BOLD}${line(names)}${PLAIN}`);
  texts.forEach((row) => print(line(row)));
}

/** A client chooses keys and paths: none of them is to steer the terminal. */
export function printable(cell: Cell): string {
  return String(cell ?? '-').replaceAll(
    /[\p{Cc}\p{Cf}]/gu,
    (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`,
  );
}

export function whenOf(date: Date | null): string {
  return date === null ? 'never' : date.toISOString();
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function sizeOf(bytes: number): string {
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), UNITS.length - 1);
  const number = bytes / 1024 ** power;
  return `${power === 0 ? number : number.toFixed(1)} ${UNITS[power]}`;
}

/** The largest unit that it has one of: `90 s`, `26 h`. */
export function durationOf(seconds: number): string {
  return seconds < 120
    ? `${seconds} s`
    : seconds < 7_200
      ? `${Math.round(seconds / 60)} min`
      : seconds < 172_800
        ? `${Math.round(seconds / 3_600)} h`
        : `${Math.round(seconds / 86_400)} d`;
}
