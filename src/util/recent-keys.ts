/** What was found under a key. */
export type Sighting = 'recorded' | 'in flight';

/**
 * Keys that were recorded or replayed here, or found in flight elsewhere, a short while ago; the one that came first is
 * forgotten for the newest. Only a hint which way to look first: what is true is in the table.
 */
export class RecentKeys {
  private readonly sightings = new Map<string, Sighting>();

  constructor(private readonly capacity: number) {}

  set(name: string, sighting: Sighting): void {
    this.sightings.set(name, sighting);
    if (this.sightings.size > this.capacity) {
      this.sightings.delete(this.sightings.keys().next().value!);
    }
  }

  get(name: string): Sighting | undefined {
    return this.sightings.get(name);
  }

  delete(name: string): void {
    this.sightings.delete(name);
  }
}
