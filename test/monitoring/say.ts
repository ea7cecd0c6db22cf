/** What was seen, and when. */
export function say(line: string): void {
  console.log(`${String(Math.round(performance.now() / 1000)).padStart(3)} s  ${line}`);
}
