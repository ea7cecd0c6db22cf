const WIDTH = 30;

/** What the bar needs of a terminal: `process.stderr` is one, unless it was redirected. */
export interface Terminal {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/** One line, drawn over itself. Where the output is no terminal it draws nothing. */
export class ProgressBar {
  constructor(
    private readonly terminal: Terminal,
    private readonly total: number,
  ) {}

  update(done: number): void {
    // Rows go on expiring meanwhile, so that there may be more than were counted.
    const part = this.total === 0 ? 1 : Math.min(done / this.total, 1);
    const filled = Math.round(part * WIDTH);
    const percent = String(Math.floor(part * 100)).padStart(3);
    this.draw(`[${'#'.repeat(filled)}${'.'.repeat(WIDTH - filled)}] ${percent} % ${done}/${this.total}`);
  }

  /** Leaves the line as it was, for what is printed next. */
  clear(): void {
    this.draw('');
  }

  private draw(line: string): void {
    // Back to the first column, and erase to the end of the line.
    if (this.terminal.isTTY === true) {
      this.terminal.write(`\r\u001B[K${line}`);
    }
  }
}
