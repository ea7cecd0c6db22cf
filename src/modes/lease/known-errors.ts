import {
  BadGatewayException,
  BadRequestException,
  ConflictException,
  ForbiddenException,
  GatewayTimeoutException,
  GoneException,
  HttpVersionNotSupportedException,
  ImATeapotException,
  InternalServerErrorException,
  MethodNotAllowedException,
  MisdirectedException,
  NotAcceptableException,
  NotFoundException,
  NotImplementedException,
  PayloadTooLargeException,
  PreconditionFailedException,
  RequestTimeoutException,
  ServiceUnavailableException,
  UnauthorizedException,
  UnprocessableEntityException,
  UnsupportedMediaTypeException,
} from '@nestjs/common';
import { EntityNotFoundError, QueryFailedError } from 'typeorm';

type ErrorClass = abstract new (...given: never[]) => Error;

/** Those that code catches by `instanceof`, and that are in every process: an error may be given again as one of them. */
const HTTP_EXCEPTIONS = byName([
  BadGatewayException,
  BadRequestException,
  ConflictException,
  ForbiddenException,
  GatewayTimeoutException,
  GoneException,
  HttpVersionNotSupportedException,
  ImATeapotException,
  InternalServerErrorException,
  MethodNotAllowedException,
  MisdirectedException,
  NotAcceptableException,
  NotFoundException,
  NotImplementedException,
  PayloadTooLargeException,
  PreconditionFailedException,
  RequestTimeoutException,
  ServiceUnavailableException,
  UnauthorizedException,
  UnprocessableEntityException,
  UnsupportedMediaTypeException,
]);
const OTHERS = byName([
  EntityNotFoundError,
  EvalError,
  QueryFailedError,
  RangeError,
  ReferenceError,
  SyntaxError,
  TypeError,
  URIError,
]);

function byName(classes: ErrorClass[]): ReadonlyMap<string, ErrorClass> {
  return new Map(classes.map((errorClass) => [errorClass.name, errorClass]));
}

/** Makes a remembered error one of the class that its name says, where that is one of these. */
export function ofKnownClass(error: Error, name: string, isHttp: boolean): Error {
  const known = (isHttp ? HTTP_EXCEPTIONS : OTHERS).get(name);
  if (known === undefined) {
    return error;
  }
  Object.setPrototypeOf(error, known.prototype as object);
  if (known === QueryFailedError) {
    // Its `code` is often asked for there.
    Object.assign(error, { driverError: Object.assign(new Error(error.message), error) });
  }
  return Object.assign(error, { name });
}
