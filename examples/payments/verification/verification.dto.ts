import { IsIn, IsNotEmpty, IsString, MaxLength } from 'class-validator';

export class CreateSessionDto {
  @IsString()
  @IsNotEmpty()
  @MaxLength(255)
  user_id!: string;

  @IsString()
  @IsNotEmpty()
  @MaxLength(255)
  workflow_id!: string;
}

export class VerificationEventDto {
  /** The provider's id of this event, the same each time it is delivered. */
  @IsString()
  event_id!: string;

  /** The provider's id of the session. */
  @IsString()
  session_id!: string;

  @IsIn(['APPROVED', 'DECLINED'])
  status!: 'APPROVED' | 'DECLINED';
}
