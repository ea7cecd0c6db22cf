import { createReadStream } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { PassThrough, Readable } from 'node:stream';
import { Controller, Post, Redirect, Render, Res, type Type } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import type { FastifyReply } from 'fastify';
import type { Repository } from 'typeorm';
import type { Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';

const FILE = fileURLToPath(import.meta.url);
const SCHEMA = { type: 'object', properties: { kept: { type: 'string' } } };

/** Each way to answer that the guide of Fastify has, with the library and without. */
export function fastifyController(prefix: string, idempotent: typeof Idempotent): Type {
  @idempotent()
  @Controller(prefix)
  class FastifyAnswers {
    constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

    private async effect(): Promise<void> {
      await this.effects.insert({ label: prefix });
    }

    @Post('send-string')
    async sendString(@Res() reply: FastifyReply) {
      await this.effect();
      reply.send('Grüße');
    }

    @Post('send-string-json')
    async sendStringJson(@Res() reply: FastifyReply) {
      await this.effect();
      reply.type('application/json').send('{"already":"json"}');
    }

    @Post('send-buffer')
    async sendBuffer(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send(Buffer.from([0, 255, 1]));
    }

    @Post('send-typed-array')
    async sendTypedArray(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send(new Uint16Array([1, 65535]));
    }

    @Post('send-object')
    async sendObject(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send({ some: 'json' });
    }

    @Post('send-null')
    async sendNull(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send(null);
    }

    @Post('send-nothing')
    async sendNothing(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send();
    }

    @Post('send-number')
    async sendNumber(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send(12);
    }

    @Post('send-204')
    async send204(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.code(204).send('is left out');
    }

    @Post('send-304')
    async send304(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.code(304).send();
    }

    @Post('send-stream')
    async sendStream(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.type('text/plain').send(createReadStream(FILE));
    }

    @Post('send-stream-broken')
    async sendStreamBroken(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send(createReadStream('/nowhere/at/all'));
    }

    @Post('send-web-stream')
    async sendWebStream(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send(new Blob(['of ', 'the web']).stream());
    }

    @Post('send-web-response')
    async sendWebResponse(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send(new Response('of the web', { status: 203, headers: { 'X-Web': 'yes', ETag: '"w"' } }));
    }

    @Post('send-web-response-empty')
    async sendWebResponseEmpty(@Res() reply: FastifyReply) {
      await this.effect();
      await reply.send(new Response(null, { status: 204 }));
    }

    @Post('send-error')
    async sendError(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send(Object.assign(new Error('as a payload'), { statusCode: 409 }));
    }

    @Post('code')
    async code(@Res() reply: FastifyReply) {
      await this.effect();
      reply.statusCode = 202;
      return reply.send({ code: reply.statusCode });
    }

    @Post('headers')
    async headers(@Res() reply: FastifyReply) {
      await this.effect();
      reply
        .status(203)
        .header('x-one', 'one')
        .headers({ 'x-two': '2', 'x-gone': 'gone' })
        .header('set-cookie', 'a=1')
        .header('set-cookie', 'b=2')
        .header('x-empty', '')
        .header('Link', ['</a>; rel="next"', '</b>; rel="prev"']);
      reply.removeHeader('x-gone');
      return reply.send({
        two: reply.getHeader('x-two'),
        has: reply.hasHeader('x-gone'),
        all: Object.keys(reply.getHeaders()).length > 3,
      });
    }

    @Post('trailer')
    async trailer(@Res() reply: FastifyReply) {
      await this.effect();
      reply.trailer('x-late', async () => 'promised');
      reply.trailer('ETag', (_reply, payload, done) => done(null, `"${String(payload).length}"`));
      reply.trailer('x-gone', async () => 'gone');
      reply.removeTrailer('x-gone');
      return reply.send({ with: reply.hasTrailer('etag') });
    }

    @Post('trailer-removed')
    async trailerRemoved(@Res() reply: FastifyReply) {
      await this.effect();
      reply.trailer('x-gone', async () => 'gone');
      reply.removeTrailer('x-gone');
      return reply.send({ without: true });
    }

    @Post('trailer-of-nothing')
    async trailerOfNothing(@Res() reply: FastifyReply) {
      await this.effect();
      reply.trailer('x-late', async () => 'after nothing');
      return reply.send(null);
    }

    @Post('trailer-of-stream')
    async trailerOfStream(@Res() reply: FastifyReply) {
      await this.effect();
      reply.trailer('x-late', (_reply, _payload, done) => setImmediate(() => done(null, 'after the stream')));
      return reply.send(Readable.from(['one ', 'two']));
    }

    @Post('trailer-of-web-stream')
    async trailerOfWebStream(@Res() reply: FastifyReply) {
      await this.effect();
      reply.trailer('x-late', async () => 'after the stream');
      return reply.send(new Blob(['of ', 'the web']).stream());
    }

    @Post('trailer-passthrough')
    async trailerPassthrough(@Res({ passthrough: true }) reply: FastifyReply) {
      reply.trailer('x-late', async () => 'after a value');
      await this.effect();
      return { returned: true };
    }

    @Post('trailer-failing')
    async trailerFailing(@Res() reply: FastifyReply) {
      await this.effect();
      reply.trailer('x-late', async () => Promise.reject(new Error('no trailer')));
      return reply.send('without');
    }

    @Post('redirect')
    async redirect(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.redirect('/elsewhere', 303);
    }

    @Post('redirect-302')
    async redirect302(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.status(302).redirect(encodeURI('/else where/ü'));
    }

    @Post('redirect-decorator')
    @Redirect('/decorated')
    async redirectDecorator() {
      await this.effect();
    }

    @Post('call-not-found')
    async callNotFound(@Res() reply: FastifyReply) {
      await this.effect();
      reply.callNotFound();
    }

    @Post('serializer')
    async serializer(@Res() reply: FastifyReply) {
      await this.effect();
      return reply
        .type('application/x-own')
        .serializer((payload: { own: string }) => `${payload.own} by itself`)
        .send({ own: 'serialized' });
    }

    @Post('serialize')
    async serialize(@Res() reply: FastifyReply) {
      await this.effect();
      const text = reply.serialize({ by: 'reply' }) as string;
      const fitted = reply.serializeInput({ kept: 'yes', left: 'out' }, SCHEMA);
      const compiled = reply.compileSerializationSchema(SCHEMA)({ kept: 'too', left: 'out' });
      return reply.type('application/json').send(`[${text},${fitted as string},${compiled}]`);
    }

    @Post('raw')
    async raw(@Res() reply: FastifyReply) {
      await this.effect();
      reply.hijack();
      reply.raw.writeHead(202, 'Taken In', { 'Content-Type': 'text/plain' });
      reply.raw.end('raw');
    }

    @Post('raw-without-hijack')
    async rawWithoutHijack(@Res() reply: FastifyReply) {
      await this.effect();
      reply.raw.setHeader('x-raw', 'yes');
      reply.raw.end('raw');
    }

    @Post('raw-before')
    async rawBefore(@Res() reply: FastifyReply) {
      reply.raw.end('before its work');
      await this.effect();
    }

    @Post('raw-piped')
    async rawPiped(@Res() reply: FastifyReply) {
      await this.effect();
      reply.hijack();
      createReadStream(FILE).pipe(new PassThrough()).pipe(reply.raw);
    }

    @Post('reason')
    async reason(@Res() reply: FastifyReply) {
      await this.effect();
      reply.raw.statusMessage = 'Made To Order';
      return reply.code(201).send('reason');
    }

    @Post('sent')
    async sent(@Res() reply: FastifyReply) {
      const before = reply.sent;
      await this.effect();
      reply.send({ before });
      if (!reply.sent) {
        await reply;
      }
      await this.effects.insert({ label: reply.sent ? prefix : 'not sent' });
    }

    @Post('await-reply')
    async awaitReply(@Res() reply: FastifyReply) {
      setImmediate(() => reply.send('by a callback'));
      await reply;
      await this.effect();
    }

    @Post('return-reply')
    async returnReply(@Res() reply: FastifyReply) {
      await this.effect();
      setImmediate(() => reply.send('by a callback'));
      return reply;
    }

    @Post('elapsed')
    async elapsed(@Res() reply: FastifyReply) {
      await this.effect();
      return reply.send({ elapsed: reply.elapsedTime > 0 });
    }

    @Post('early-hints')
    async earlyHints(@Res() reply: FastifyReply) {
      reply.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
      await this.effect();
      return reply.send('hinted');
    }

    @Post('view')
    @Render('page')
    async view() {
      await this.effect();
      return { title: 'rendered' };
    }

    @Post('send-twice')
    async sendTwice(@Res() reply: FastifyReply) {
      await this.effect();
      reply.send('first');
      reply.send('second');
    }
  }
  return FastifyAnswers;
}
