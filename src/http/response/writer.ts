/**
 * Who has written the head of the response: the handler (`@Res()`); the framework with a value; whoever answers an error
 * (an exception filter); or the same for a problem of this library, which tells of a request and is none's outcome.
 */
export type Writer = 'handler' | 'framework' | 'error' | 'problem';
