import { Type } from 'class-transformer';
import { IsIn, IsInt, IsNotEmpty, IsOptional, IsString, Matches, Max, MaxLength, Min } from 'class-validator';

/** The largest value of the column's type, integer. */
const MAX_AMOUNT = 2_147_483_647;

export class CreatePaymentDto {
  /** In the currency's minor unit: cents. */
  @IsInt()
  @Min(1)
  @Max(MAX_AMOUNT)
  amount!: number;

  @Matches(/^[A-Z]{3}$/, { message: 'currency must be three capital letters, such as EUR' })
  currency!: string;

  @IsString()
  @IsNotEmpty()
  @MaxLength(255)
  destination!: string;
}

export class CreateRefundDto {
  @IsInt()
  @Min(1)
  @Max(MAX_AMOUNT)
  amount!: number;
}

/** For trying things out: what goes wrong with real payments from time to time. */
export class TroubleDto {
  /** The request fails once everything is written. */
  @IsOptional()
  @IsIn(['after-write'])
  fail?: 'after-write';

  /** The request takes that long. */
  @IsOptional()
  @Type(() => Number)
  @IsInt()
  @Min(0)
  @Max(20_000)
  delay_ms?: number;
}
