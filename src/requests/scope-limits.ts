/** How many requests of each scope this process carries out. */
export class ScopeLimits {
  private readonly running = new Map<string, number>();

  /** Whether one more is let in; it {@link leave}s then. */
  enter(scope: string, max: number): boolean {
    const count = this.running.get(scope) ?? 0;
    if (count >= max) {
      return false;
    }
    this.running.set(scope, count + 1);
    return true;
  }

  leave(scope: string): void {
    const left = this.running.get(scope)! - 1;
    if (left === 0) {
      this.running.delete(scope);
    } else {
      this.running.set(scope, left);
    }
  }
}
