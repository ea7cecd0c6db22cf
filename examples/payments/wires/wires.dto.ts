import { IsInt, IsPositive, IsString, MaxLength } from 'class-validator';

export class CreateWireDto {
  @IsInt()
  @IsPositive()
  amount!: number;

  @IsString()
  @MaxLength(34)
  iban!: string;
}
