/** As much of a string as is needed to read it: each character is looked at a bounded number of times. */
export type SqlText = Pick<string, 'length' | 'charCodeAt'>;

/** `word` is a keyword or an unquoted name, `quoted` a literal or a quoted name, `other` one character or a number. */
export type TokenKind = 'word' | 'quoted' | 'other';

const TAB = 0x09;
const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const SPACE = 0x20;
const DOUBLE_QUOTE = 0x22;
const DOLLAR = 0x24;
const QUOTE = 0x27;
const ASTERISK = 0x2a;
const DASH = 0x2d;
const SLASH = 0x2f;
const UNDERSCORE = 0x5f;
const BACKSLASH = 0x5c;
const E = 0x65;

/** Turns an ASCII letter into a small one; keywords know no others (PostgreSQL's ScanKeywordLookup). */
const TO_LOWER = 0x20;

/**
 * Reads SQL token by token as PostgreSQL's scan.l does, with `standard_conforming_strings` on: nested comments, literals
 * of all kinds, dollar quotes, quoted names. What is not closed lasts to the end: PostgreSQL refuses it.
 *
 * It is long because PostgreSQL's lexical structure has that many cases (manual, 4.1), each a few lines.
 */
export class SqlScanner {
  kind: TokenKind = 'other';
  private start = 0;
  private end = 0;

  constructor(private readonly text: SqlText) {}

  /** Goes on to the next token; false where there is none. */
  next(): boolean {
    this.start = this.pastBlanks(this.end);
    if (this.start >= this.text.length) {
      this.end = this.start;
      this.kind = 'other';
      return false;
    }
    const code = this.at(this.start);
    if (isNameStart(code)) {
      this.readWord(code);
    } else if (code === QUOTE || code === DOUBLE_QUOTE) {
      this.read('quoted', this.pastQuote(this.start, code, false));
    } else if (code === DOLLAR) {
      this.readDollar();
    } else {
      this.read('other', isDigit(code) ? this.pastDigits(this.start) : this.start + 1);
    }
    return true;
  }

  /** The token, with small letters if it is a word: compare it only with short words, of which it makes no long string. */
  is(token: string): boolean {
    return this.end - this.start === token.length && this.beginsWith(token);
  }

  beginsWith(token: string): boolean {
    if (this.kind === 'quoted' || this.end - this.start < token.length) {
      return false;
    }
    for (let index = 0; index < token.length; index++) {
      const code = this.at(this.start + index);
      if ((this.kind === 'word' && isLetter(code) ? code | TO_LOWER : code) !== token.charCodeAt(index)) {
        return false;
      }
    }
    return true;
  }

  private at(index: number): number {
    return this.text.charCodeAt(index); // NaN behind the end, which equals nothing
  }

  private read(kind: TokenKind, end: number): void {
    this.kind = kind;
    this.end = end;
  }

  private readWord(first: number): void {
    if ((first | TO_LOWER) === E && this.at(this.start + 1) === QUOTE) {
      this.read('quoted', this.pastEscapes());
      return;
    }
    let index = this.start + 1;
    while (isNamePart(this.at(index))) {
      index++;
    }
    this.read('word', index);
  }

  /** A dollar quote, a parameter, or a dollar sign that PostgreSQL will refuse. */
  private readDollar(): void {
    let opened = this.start + 1;
    if (isNameStart(this.at(opened))) {
      while (isNamePart(this.at(opened)) && this.at(opened) !== DOLLAR) {
        opened++;
      }
    }
    if (this.at(opened) === DOLLAR) {
      this.read('quoted', this.pastDollarQuote(opened + 1));
    } else {
      this.read('other', this.pastDigits(this.start + 1));
    }
  }

  /** Each dollar sign may begin the closing tag; what is compared in vain has no other in it, and is passed over. */
  private pastDollarQuote(opened: number): number {
    const tagLength = opened - this.start;
    let index = opened;
    while (index < this.text.length) {
      let matching = 0;
      while (matching < tagLength && this.at(index + matching) === this.at(this.start + matching)) {
        matching++;
      }
      if (matching === tagLength) {
        return index + tagLength;
      }
      // Behind the first sign, up to where it differed, there are only characters of a name.
      index += Math.max(matching, 1);
    }
    return this.text.length;
  }

  private pastQuote(opened: number, quote: number, backslashEscapes: boolean): number {
    let index = opened + 1;
    for (; index < this.text.length; index++) {
      const code = this.at(index);
      if (code === BACKSLASH && backslashEscapes) {
        index++;
      } else if (code === quote) {
        if (this.at(index + 1) !== quote) {
          return index + 1;
        }
        index++; // doubled, it stands for itself
      }
    }
    return this.text.length;
  }

  /** Literals with only a line break between them are one: backslashes escape in what follows `E'…'`, too. */
  private pastEscapes(): number {
    let opened = this.start + 1;
    for (;;) {
      const closed = this.pastQuote(opened, QUOTE, true);
      let hasLineBreak = false;
      let index = closed;
      for (; ; index++) {
        const code = this.at(index);
        if (isLineBreak(code)) {
          hasLineBreak = true;
        } else if (code === DASH && this.at(index + 1) === DASH) {
          index = this.endOfLine(index) - 1;
        } else if (!isBlank(code)) {
          break;
        }
      }
      if (!hasLineBreak || this.at(index) !== QUOTE) {
        return index;
      }
      opened = index;
    }
  }

  private pastBlanks(from: number): number {
    let index = from;
    for (;;) {
      const code = this.at(index);
      if (isBlank(code)) {
        index++;
      } else if (code === DASH && this.at(index + 1) === DASH) {
        index = this.endOfLine(index);
      } else if (code === SLASH && this.at(index + 1) === ASTERISK) {
        index = this.pastComment(index);
      } else {
        return index;
      }
    }
  }

  private endOfLine(from: number): number {
    let index = from;
    while (index < this.text.length && !isLineBreak(this.at(index))) {
      index++;
    }
    return index;
  }

  private pastComment(from: number): number {
    let depth = 0;
    let index = from;
    while (index < this.text.length) {
      const code = this.at(index);
      const following = this.at(index + 1);
      if (code === SLASH && following === ASTERISK) {
        depth++;
        index += 2;
      } else if (code === ASTERISK && following === SLASH) {
        depth--;
        index += 2;
        if (depth === 0) {
          return index;
        }
      } else {
        index++;
      }
    }
    return this.text.length;
  }

  private pastDigits(from: number): number {
    let index = from;
    while (isDigit(this.at(index))) {
      index++;
    }
    return index;
  }
}

function isLineBreak(code: number): boolean {
  return code === LINE_FEED || code === CARRIAGE_RETURN;
}

/** ASCII alone: to PostgreSQL a no-break space is a letter. */
function isBlank(code: number): boolean {
  return code === SPACE || (code >= TAB && code <= CARRIAGE_RETURN);
}

function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

function isLetter(code: number): boolean {
  const small = code | TO_LOWER;
  return small >= 0x61 && small <= 0x7a;
}

function isNameStart(code: number): boolean {
  return isLetter(code) || code === UNDERSCORE || code >= 0x80;
}

function isNamePart(code: number): boolean {
  return isNameStart(code) || isDigit(code) || code === DOLLAR;
}
