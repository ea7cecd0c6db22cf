export interface Payment {
  amount: number;
  currency: string;
  destination: string;
}

export interface Answer {
  status: number;
  body: unknown;
}

/** Pays with a client that people already have. Its file is what docs/client.md shows. */
export type Recipe = (url: string, payment: Payment, key: string) => Promise<Answer>;
