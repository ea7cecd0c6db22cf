import { FaultProxy, type Place } from '../faults/proxy.js';
import { Random } from '../faults/random.js';
import { HTTP } from './http-framing.js';

/** Between HTTP clients and an application: it breaks the exchanges that it was told to. */
export class UnreliableNetwork {
  /** How many of the faults it was told of have struck. */
  struck = 0;

  private constructor(private readonly proxy: FaultProxy<'request'>) {}

  static async to(target: () => number, seed = 'network'): Promise<UnreliableNetwork> {
    return new UnreliableNetwork(await FaultProxy.between(target, new Random(seed), HTTP));
  }

  get port(): number {
    return this.proxy.port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Each strikes one of the next requests, in this order. @param letPass requests that pass before it */
  break(place: Place, letPass = 0): void {
    this.proxy.arm(`request: ${place}`, letPass, () => this.struck++);
  }

  /** What is lost in a network most often, and hurts most: the server has done it, and nobody is told. */
  loseNextAnswer(): void {
    this.break('cut before the answer');
  }

  get waiting(): number {
    return this.proxy.armedFor('request');
  }

  heal(): void {
    this.proxy.disarm();
  }

  stop(): void {
    this.proxy.stop();
  }
}
