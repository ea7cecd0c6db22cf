import { randomUUID } from 'node:crypto';
import { Controller, Post, Req, type Type, UseInterceptors } from '@nestjs/common';
import { AnyFilesInterceptor } from '@nestjs/platform-express';
import { Idempotent } from '../../../src/index.js';
import type { Adapter } from '../../support/test-app.js';

export interface BodyCase {
  path: 'bodies' | 'uploads';
  headers: [string, string][];
  chunked: boolean;
  bytes: Buffer;
}

/** Express' request or Fastify's, with what the parsers left on it. */
interface ParsedRequest {
  body?: unknown;
  files?: unknown;
}

/** What the handler was given, by its own account: where two differ, one must never get the other's answer. */
async function viewOf({ body, files }: ParsedRequest): Promise<unknown> {
  if (Array.isArray(files)) {
    const stored = files as { fieldname: string; originalname: string; mimetype: string; buffer: Buffer }[];
    return [
      body,
      stored.map(({ fieldname, originalname, mimetype, buffer }) => [fieldname, originalname, mimetype, buffer]),
    ];
  }
  if (!isMultipart(body)) return body;
  return Promise.all(
    Object.entries(body).flatMap(([name, parts]) =>
      [parts].flat().map(async (part) => {
        if (part.type !== 'file') return [name, part.value];
        const content = await part.toBuffer!();
        // The empty file input of a form: multer leaves it out, and the fingerprint with it.
        return part.filename || content.length > 0 ? [name, part.filename, part.mimetype, content] : [];
      }),
    ),
  ).then((parts) => parts.filter((part) => part.length > 0));
}

interface Part {
  type: string;
  value?: unknown;
  filename?: string;
  mimetype?: string;
  toBuffer?: () => Promise<Buffer>;
}

/** What @fastify/multipart attaches. */
function isMultipart(body: unknown): body is Record<string, Part | Part[]> {
  const parts = Object.values(Object(body) as Record<string, unknown>).flat();
  return parts.length > 0 && parts.every((part) => typeof part === 'object' && part !== null && 'fieldname' in part);
}

export const views: unknown[] = [];

export function bodiesController(prefix: string, adapter: Adapter, idempotent: typeof Idempotent): Type {
  const readUpload: () => MethodDecorator =
    adapter === 'express' ? () => UseInterceptors(AnyFilesInterceptor()) : () => () => undefined;

  @Controller(prefix)
  class BodiesController {
    @Post('bodies')
    @idempotent()
    bodies(@Req() request: ParsedRequest): Promise<object> {
      return this.look(request);
    }

    @Post('uploads')
    @idempotent()
    @readUpload()
    uploads(@Req() request: ParsedRequest): Promise<object> {
      return this.look(request);
    }

    private async look(request: ParsedRequest): Promise<object> {
      views.push(await viewOf(request));
      return { run: randomUUID() };
    }
  }
  return BodiesController;
}

export const plainly: typeof Idempotent = () => () => undefined;
