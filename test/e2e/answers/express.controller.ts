import { createReadStream } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { PassThrough, pipeline, Readable, Transform, Writable } from 'node:stream';
import { pipeline as pipelineDone } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { ConflictException, Controller, Next, Post, Render, Res, type Type } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import type { NextFunction, Response } from 'express';
import type { Repository } from 'typeorm';
import type { Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';

const FILE = fileURLToPath(import.meta.url);

/** Each way to answer that the guide of Express has, with the library and without. */
export function expressController(prefix: string, idempotent: typeof Idempotent): Type {
  @idempotent()
  @Controller(prefix)
  class ExpressAnswers {
    constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

    private async effect(): Promise<void> {
      await this.effects.insert({ label: prefix });
    }

    @Post('send-string')
    async sendString(@Res() response: Response) {
      await this.effect();
      response.send('<p>Grüße</p>');
    }

    @Post('send-buffer')
    async sendBuffer(@Res() response: Response) {
      await this.effect();
      response.send(Buffer.from([0, 255, 1]));
    }

    @Post('send-object')
    async sendObject(@Res() response: Response) {
      await this.effect();
      response.send({ some: 'json' });
    }

    @Post('send-nothing')
    async sendNothing(@Res() response: Response) {
      await this.effect();
      response.status(202).send();
    }

    @Post('send-boolean')
    async sendBoolean(@Res() response: Response) {
      await this.effect();
      response.send(true);
    }

    @Post('send-204')
    async send204(@Res() response: Response) {
      await this.effect();
      response.status(204).send('is left out');
    }

    @Post('send-205')
    async send205(@Res() response: Response) {
      await this.effect();
      response.status(205).send('is left out');
    }

    @Post('send-304')
    async send304(@Res() response: Response) {
      await this.effect();
      response.status(304).send('is left out');
    }

    @Post('json')
    async json(@Res() response: Response) {
      await this.effect();
      response.type('application/vnd.api+json').json({ data: null });
    }

    @Post('jsonp')
    async jsonp(@Res() response: Response) {
      await this.effect();
      response.req.query['callback'] ??= 'call';
      response.jsonp({ user: 'tobi\u2028' });
    }

    @Post('end')
    async end(@Res() response: Response) {
      await this.effect();
      response.end('ended', 'latin1');
    }

    @Post('end-empty')
    async endEmpty(@Res() response: Response) {
      await this.effect();
      response.status(202).end();
    }

    @Post('end-before')
    async endBefore(@Res() response: Response) {
      response.end('before its work');
      await this.effect();
    }

    @Post('send-file')
    async sendFile(@Res() response: Response) {
      await this.effect();
      response.sendFile(FILE);
    }

    @Post('send-file-awaited')
    async sendFileAwaited(@Res() response: Response) {
      await new Promise<void>((resolve, reject) => {
        response.sendFile(
          'express.controller.ts',
          { root: `${FILE}/..`, headers: { 'X-Sent': 'true' }, maxAge: 1000 },
          (error) => (error ? reject(error) : resolve()),
        );
      });
      await this.effect();
    }

    @Post('send-file-missing')
    async sendFileMissing(@Res() response: Response) {
      await this.effect();
      response.sendFile('/nowhere/at/all', (error) => {
        response.status(404).json({ code: (error as NodeJS.ErrnoException).code });
      });
    }

    @Post('download')
    async download(@Res() response: Response) {
      await this.effect();
      response.download(FILE, 'größe.txt');
    }

    @Post('download-awaited')
    async downloadAwaited(@Res() response: Response) {
      await new Promise<void>((resolve, reject) => {
        response.download(FILE, 'a.txt', (error) => (error ? reject(error) : resolve()));
      });
      await this.effect();
    }

    @Post('format')
    async format(@Res() response: Response) {
      await this.effect();
      response.format({
        'text/plain': () => response.send('plain'),
        'application/json': () => response.send({ message: 'json' }),
      });
    }

    @Post('redirect')
    async redirect(@Res() response: Response) {
      await this.effect();
      response.redirect('/else where/ü');
    }

    @Post('redirect-301')
    async redirect301(@Res() response: Response) {
      await this.effect();
      response.redirect(301, 'http://example.com/');
    }

    @Post('redirect-back')
    async redirectBack(@Res() response: Response) {
      await this.effect();
      response.redirect(response.req.get('Referrer') ?? 'back');
    }

    @Post('send-status')
    async sendStatus(@Res() response: Response) {
      await this.effect();
      response.sendStatus(202);
    }

    @Post('headers')
    async headers(@Res() response: Response) {
      await this.effect();
      response
        .links({ next: 'http://a/?page=2', last: 'http://a/?page=5' })
        .append('Link', '<http://a/first>; rel="first"')
        .append('Warning', '199 Miscellaneous warning')
        .vary('User-Agent')
        .vary('Accept, Origin')
        .location('/here/ü')
        .set({ ETag: 'W/"own"', 'X-Number': '12' })
        .attachment('logo ü.png')
        .type('png')
        .send(Buffer.from('no picture'));
    }

    @Post('cookies')
    async cookies(@Res() response: Response) {
      await this.effect();
      response
        .cookie('name', 'tobi', { path: '/admin', httpOnly: true, maxAge: 900000 })
        .clearCookie('other')
        .send('ok');
    }

    @Post('render')
    async render(@Res() response: Response) {
      await this.effect();
      response.render('page', { title: 'one' });
    }

    @Post('render-awaited')
    async renderAwaited(@Res() response: Response) {
      const html = await new Promise<string>((resolve, reject) => {
        response.render('page', { title: 'two' }, (error, rendered) => (error ? reject(error) : resolve(rendered)));
      });
      await this.effect();
      response.send(html);
    }

    @Post('render-decorator')
    @Render('page')
    async renderDecorator() {
      await this.effect();
      return { title: 'three' };
    }

    @Post('early-hints')
    async earlyHints(@Res() response: Response) {
      response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
      await this.effect();
      response.send('hinted');
    }

    @Post('processing')
    async processing(@Res() response: Response) {
      response.writeContinue();
      response.writeProcessing();
      await this.effect();
      response.send('processed');
    }

    @Post('reason')
    async reason(@Res() response: Response) {
      await this.effect();
      response.statusMessage = 'Made To Order';
      response.status(201).send('reason');
    }

    @Post('write-head')
    async writeHead(@Res() response: Response) {
      await this.effect();
      response.writeHead(202, 'Taken In', { 'Content-Type': 'text/plain', 'X-Multi': ['a', 'b'] }).end('head');
    }

    @Post('write-head-array')
    async writeHeadArray(@Res() response: Response) {
      await this.effect();
      response.writeHead(202, ['Content-Type', 'text/plain', 'X-Multi', 'a', 'X-Multi', 'b']);
      response.end('head');
    }

    @Post('write')
    async write(@Res() response: Response) {
      response.set('Content-Type', 'application/octet-stream');
      response.cork();
      response.write('AAE=', 'base64');
      response.write(new Uint8Array([2, 3]));
      response.uncork();
      await new Promise<void>((resolve, reject) => {
        response.write('ff', 'hex', (error) => (error ? reject(error) : resolve()));
      });
      await this.effect();
      response.end();
    }

    @Post('write-with-length')
    async writeWithLength(@Res() response: Response) {
      await this.effect();
      response.strictContentLength = true;
      response.setHeader('Content-Length', 4); // Node.js 20.19 compares it as it was given
      response.flushHeaders();
      response.write('four');
      response.end();
    }

    @Post('trailers')
    async trailers(@Res() response: Response) {
      await this.effect();
      response.set('Trailer', 'Content-MD5');
      response.write('with trailers');
      response.addTrailers({ 'Content-MD5': '7895bf4b8828b55ceaf47747b4bca667' });
      response.end();
    }

    @Post('piped')
    async piped(@Res() response: Response) {
      await this.effect();
      createReadStream(FILE).pipe(new PassThrough()).pipe(response.type('txt'));
    }

    @Post('pipeline-callback')
    async pipelineCallback(@Res() response: Response) {
      await new Promise<void>((resolve, reject) => {
        pipeline(createReadStream(FILE), createGzip(), response.set('Content-Encoding', 'gzip').type('txt'), (error) =>
          error ? reject(error) : resolve(),
        );
      });
      await this.effect();
    }

    @Post('pipeline-in-background')
    async pipelineInBackground(@Res() response: Response) {
      await this.effect();
      const upper = new Transform({ transform: (chunk, _, done) => done(null, String(chunk).toUpperCase()) });
      void pipelineDone(Readable.from(['one ', 'two ']), upper, response);
    }

    @Post('web-stream')
    async webStream(@Res() response: Response) {
      await new Blob(['of ', 'the web']).stream().pipeTo(Writable.toWeb(response));
      await this.effect();
    }

    @Post('next-error')
    async nextError(@Next() next: NextFunction) {
      await this.effect();
      next(Object.assign(new Error('handed on'), { status: 409, expose: true }));
    }

    @Post('next-conflict')
    async nextConflict(@Next() next: NextFunction) {
      await this.effect();
      next(new ConflictException('handed on'));
    }

    @Post('next')
    async next(@Next() next: NextFunction) {
      await this.effect();
      next();
    }

    @Post('next-error-later')
    async nextErrorLater(@Next() next: NextFunction) {
      await this.effect();
      setImmediate(() => next(new Error('handed on later')));
    }
  }
  return ExpressAnswers;
}
