/**
 * A JSON document of exactly `bytes` bytes, as an order with many lines would be: objects, strings and numbers in
 * turn. One long string alone would make any canonical form look cheap.
 */
export function jsonBody(bytes: number): string {
  const document = { customer: 'c-1042', currency: 'EUR', lines: [] as object[], note: '' };
  let size = JSON.stringify(document).length;
  for (let number = 1; ; number++) {
    const line = { sku: `A-${number}`, quantity: (number % 9) + 1, price: number * 1.25, gift: number % 2 === 0 };
    size += JSON.stringify(line).length + 1;
    if (size > bytes) {
      break;
    }
    document.lines.push(line);
  }
  document.note = 'x'.repeat(bytes - JSON.stringify(document).length);
  return JSON.stringify(document);
}

export const ONE_KB = jsonBody(1024);
