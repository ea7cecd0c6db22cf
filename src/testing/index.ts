export type { Answer, ClientResponse, FetchedResponse, InjectedResponse, SupertestResponse } from './answer.js';
export {
  expectOneOfStorm,
  expectReplay,
  expectReplayAfterLostResponse,
  expectRetryAfterFailedCommit,
} from './expectations.js';
export type { Operation } from './answers-of.js';
export type { Storm } from './expectations.js';
