/** Tells once that sessions differ by their `search_path`, as those of tenants do: they share one table of keys. */
export class SearchPathWatch {
  private hasWarned = false;

  constructor(
    private readonly atBoot: string,
    private readonly warn: (message: string) => void,
  ) {}

  see(searchPath: string): void {
    if (searchPath !== this.atBoot && !this.hasWarned) {
      this.hasWarned = true;
      this.warn(
        `A request runs with the search_path ${searchPath}, where the application was started with ${this.atBoot}. ` +
          'All of them share the table of keys that was found at the start: if tenants are told apart by their search_path, ' +
          'name the tenant in the option `scope`, or the key of one is the key of all. This is said once.',
      );
    }
  }
}
