import { IsEmail, IsNotEmpty, IsString, MaxLength, ValidateIf } from 'class-validator';

export class CreateCustomerDto {
  @IsString()
  @IsNotEmpty()
  @MaxLength(255)
  name!: string;

  @IsEmail()
  email!: string;
}

/** What is left out stays as it is. (`@IsOptional()` would let null pass, too.) */
const isGiven = (_: unknown, value: unknown) => value !== undefined;

export class UpdateCustomerDto {
  @ValidateIf(isGiven)
  @IsString()
  @IsNotEmpty()
  @MaxLength(255)
  name?: string;

  @ValidateIf(isGiven)
  @IsEmail()
  email?: string;
}
