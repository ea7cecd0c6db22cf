import { type Profiler as Inspector, Session } from 'node:inspector/promises';
import type { ProfileShares } from './protocol.js';

type Node = Inspector.ProfileNode;

/** This process's own sampling profiler, with each sample charged to whose work it was. */
export class Profiler {
  private readonly session = new Session();

  async start(intervalUs: number): Promise<void> {
    this.session.connect();
    await this.session.post('Profiler.enable');
    await this.session.post('Profiler.setSamplingInterval', { interval: intervalUs });
    await this.session.post('Profiler.start');
  }

  async stop(): Promise<ProfileShares> {
    const { profile } = await this.session.post('Profiler.stop');
    await this.session.post('Profiler.disable');
    this.session.disconnect();
    return sharesOf(profile);
  }
}

interface Charge {
  owner: string;
  /** The function of the library that is at work, if one is. */
  func: string | undefined;
}

function sharesOf({ nodes, samples = [], timeDeltas = [] }: Inspector.Profile): ProfileShares {
  const charges = chargesOf(nodes);
  const shares: ProfileShares = { byOwner: {}, byFunction: {} };
  for (const [index, id] of samples.entries()) {
    // A delta is the time since the sample before: it belongs to what that one saw.
    const micros = Math.max(0, timeDeltas[index + 1] ?? 0);
    const { owner, func } = charges.get(id) ?? { owner: 'other', func: undefined };
    add(shares.byOwner, owner, micros);
    if (owner === 'library' && func !== undefined) {
      add(shares.byFunction, func, micros);
    }
  }
  return shares;
}

function add(sums: Record<string, number>, name: string, micros: number): void {
  sums[name] = (sums[name] ?? 0) + micros;
}

/** From the root of the call tree downwards: what is nobody's own, such as crypto or JSON, is its caller's work. */
function chargesOf(nodes: readonly Node[]): Map<number, Charge> {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const charges = new Map<number, Charge>();
  const visit = (node: Node, inherited: Charge): void => {
    const { url, functionName, lineNumber } = node.callFrame;
    const owner = ownerOf(node.callFrame, inherited.owner);
    const file = /\/\.build\/(src\/.*)$/.exec(url)?.[1];
    const func = file === undefined ? inherited.func : `${file}:${lineNumber + 1} ${functionName || '(anonymous)'}`;
    charges.set(node.id, { owner, func });
    for (const child of node.children ?? []) {
      visit(byId.get(child)!, { owner, func });
    }
  };
  if (nodes[0] !== undefined) {
    visit(nodes[0], { owner: 'node', func: undefined });
  }
  return charges;
}

function ownerOf({ url, functionName }: Node['callFrame'], inherited: string): string {
  if (/^\((?:idle|program|garbage collector)\)$/.test(functionName)) {
    return functionName.slice(1, -1);
  }
  if (url.includes('/.build/src/')) {
    return 'library';
  }
  if (url.includes('/.build/bench/')) {
    return 'handler';
  }
  const dependency = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1];
  if (dependency !== undefined) {
    return ownerOfPackage(dependency, inherited);
  }
  // Bytes that go out or come in would do so without the library: they are not its work, though it sets them off.
  return inherited === 'library' && /^node:(?:_http|net$|internal\/stream)/.test(url) ? 'sockets' : inherited;
}

function ownerOfPackage(name: string, inherited: string): string {
  if (/^pg(?:-|$)/.test(name)) {
    return 'driver';
  }
  if (name === 'typeorm') {
    return 'typeorm';
  }
  // What the library does by means of RxJS is its own work.
  return name === 'rxjs' && inherited === 'library' ? 'library' : 'nestjs and express';
}
