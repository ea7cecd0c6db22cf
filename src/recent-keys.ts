/**
 * Names of keys that were recorded or replayed here a short while ago; the oldest is forgotten for the newest. Only a
 * hint which way to look first: what is true is in the table.
 */
export class RecentKeys {
  private readonly names = new Set<string>();

  constructor(private readonly capacity: number) {}

  add(name: string): void {
    this.names.delete(name);
    this.names.add(name);
    if (this.names.size > this.capacity) {
      this.names.delete(this.names.values().next().value!);
    }
  }

  has(name: string): boolean {
    return this.names.has(name);
  }

  delete(name: string): void {
    this.names.delete(name);
  }
}
