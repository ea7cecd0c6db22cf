import type { ServerResponse } from 'node:http';
import { Controller, Post, Res, type Type } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';

export interface Answer {
  status: number;
  headers: [name: string, value: string | string[]][];
  body: Buffer;
  way: 'framework' | 'raw' | 'raw in pieces' | 'raw, pairs' | 'raw, flat';
}

export let answer: Answer;

export function answerWith(next: Answer): void {
  answer = next;
}

/** Express' response, or Fastify's reply. */
interface AnyResponse {
  status(code: number): AnyResponse;
  header(name: string, value: string | string[]): AnyResponse;
  send(body: Buffer): unknown;
  raw?: ServerResponse;
}

export function answersController(prefix: string, idempotent: typeof Idempotent): Type {
  @Controller(prefix)
  class AnswersController {
    @Post('answers')
    @idempotent()
    answer(@Res() response: AnyResponse): void {
      const { status, body, way } = answer;
      // Of a name that writeHead() gets twice, Node keeps one line or both, depending on what was set before.
      const headers = way === 'framework' || way === 'raw' ? answer.headers : withoutRepeatedNames(answer.headers);
      const raw = response.raw ?? (response as unknown as ServerResponse);
      switch (way) {
        case 'framework':
          response.status(status);
          headers.forEach(([name, value]) => response.header(name, value));
          response.send(body);
          return;
        case 'raw':
          headers.forEach(([name, value]) => raw.setHeader(name, value));
          raw.statusCode = status;
          raw.end(body);
          return;
        case 'raw in pieces':
          raw.writeHead(status, Object.fromEntries(headers));
          raw.write(body.subarray(0, body.length / 2));
          raw.end(body.subarray(body.length / 2));
          return;
        case 'raw, pairs':
          // Node takes pairs only where no header is set yet, as Express does.
          raw.writeHead(status, (raw.getHeaderNames().length === 0 ? headers : headers.flat(1)) as never);
          raw.end(body);
          return;
        case 'raw, flat':
          raw.writeHead(status, headers.flat(1) as string[]);
          raw.end(body);
      }
    }
  }
  return AnswersController;
}

function withoutRepeatedNames(headers: Answer['headers']): Answer['headers'] {
  return [...new Map(headers.map((header) => [header[0].toLowerCase(), header])).values()];
}
