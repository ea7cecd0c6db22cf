import { rm } from 'node:fs/promises';
import { type CallHandler, type ExecutionContext, Injectable, type NestInterceptor } from '@nestjs/common';
import { finalize, type Observable } from 'rxjs';

interface Uploads {
  file?: unknown;
  files?: unknown;
}

/** Deletes what multer has written for a request, once that is over, whatever has become of it. */
@Injectable()
export class RemoveUploadsInterceptor implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const request = context.switchToHttp().getRequest<Uploads>();
    return next.handle().pipe(
      finalize(() => {
        const { file, files } = request;
        for (const upload of [file, Object.values(files ?? {})].flat(2) as { path?: string }[]) {
          if (upload?.path !== undefined) void rm(upload.path, { force: true });
        }
      }),
    );
  }
}
