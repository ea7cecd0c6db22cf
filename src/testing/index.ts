export type { Answer, ClientResponse, FetchedResponse, InjectedResponse, SupertestResponse } from './answer.js';
export {
  expectOneOfStorm,
  expectReplay,
  expectReplayAfterLostResponse,
  expectRetryAfterFailedCommit,
} from './expectations.js';
export type { Operation, Storm } from './expectations.js';
