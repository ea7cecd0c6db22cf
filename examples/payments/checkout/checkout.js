import { idempotent, operation } from './client.js';

const $ = (id) => document.getElementById(id);
/** Long enough to click twice, or to reload. */
const SERVER_TAKES_MS = 1200;

/** What the visitor is about to buy: the key of its payment belongs to it, not to a click. */
let cart = (localStorage.cart ??= newCart());
let started;
let cutNext = '';

const checkout = () => operation(`checkout:${cart}`, localStorage, { keepBody: true });

/** The first request after a click meets the network that was chosen. */
const network = (input, init) => {
  const headers = new Headers(init.headers);
  if (cutNext) headers.set('X-Cut-Network', cutNext);
  cutNext = '';
  return fetch(input, { ...init, headers });
};

const pay = idempotent(network, { onProgress: (step) => describe('with', step) });

async function payWith(body) {
  try {
    const response = await pay(`/payments?delay_ms=${SERVER_TAKES_MS}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body,
      operation: checkout(),
    });
    const { payment_id: id, message } = await response.json();
    $('decide').hidden = true;
    verdict('with', response.ok ? `Paid: ${id.slice(0, 8)}` : String(message), response.ok);
  } catch (error) {
    const isUndecided = error.reason === 'payload-changed' || error.reason === 'key-expired';
    $('decide').hidden = !isUndecided;
    verdict('with', isUndecided ? `Not sent: ${error.reason}` : `${error.reason}, outcome ${error.outcome}`, false);
  }
  await showRows();
}

/** As it is often written: tried again when there was no answer. */
async function payWithout(body, cut) {
  for (let attempt = 1; attempt <= 3; attempt++) {
    describe('without', { type: 'attempt', attempt, key: 'no key' });
    try {
      const headers = { 'Content-Type': 'application/json', ...(cut && attempt === 1 && { 'X-Cut-Network': cut }) };
      const response = await fetch(`/unprotected-payments?delay_ms=${SERVER_TAKES_MS}`, {
        method: 'POST',
        headers,
        body,
      });
      const { payment_id: id } = await response.json();
      describe('without', { type: 'answer', attempt, key: 'no key', status: response.status });
      verdict('without', `Paid: ${id.slice(0, 8)}`, true);
      break;
    } catch {
      describe('without', { type: 'no-answer', attempt, key: 'no key' });
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  }
  await showRows();
}

function click() {
  started ??= performance.now();
  const cut = new FormData($('checkout')).get('cut');
  cutNext = cut;
  const amount = Math.round($('amount').valueAsNumber * 100);
  const body = (lane) => JSON.stringify({ amount, currency: 'EUR', destination: `acct_${lane}_${cart}` });
  return Promise.all([payWith(body('with')), payWithout(body('without'), cut)]);
}

const WORDS = {
  attempt: () => ['request sent', ''],
  answer: ({ status, retry }) => [`answered ${status}`, retry || status >= 400 ? 'bad' : 'good'],
  'no-answer': () => ['no answer', 'bad'],
  pause: ({ ms }) => [`waits ${Math.round(ms)} ms`, ''],
};

function describe(lane, step) {
  const [words, kind] = WORDS[step.type](step);
  const item = document.createElement('li');
  item.className = kind;
  const part = (tag, text) => item.append(Object.assign(document.createElement(tag), { textContent: text }));
  part('time', `${((performance.now() - (started ?? performance.now())) / 1000).toFixed(2)} s`);
  part('code', step.key.slice(0, 8));
  part('span', `${step.attempt}. ${words}`);
  $(`${lane}-attempts`).append(item);
}

function verdict(lane, text, isGood) {
  const paid = $(`${lane}-verdict`);
  paid.textContent = text;
  paid.className = `verdict ${isGood ? 'good' : 'bad'}`;
}

async function showRows() {
  const response = await fetch('/payments').catch(() => undefined);
  if (!response?.ok) return; // the next attempt shows them
  const payments = await response.json();
  for (const lane of ['with', 'without']) {
    const rows = payments.filter(({ destination }) => destination === `acct_${lane}_${cart}`);
    $(`${lane}-rows`).replaceChildren(
      ...rows.map(({ payment_id: id, amount }) => {
        const row = document.createElement('tr');
        for (const text of [id.slice(0, 8), `${(amount / 100).toFixed(2)} EUR`]) row.insertCell().textContent = text;
        return row;
      }),
    );
    if (rows.length > 1) verdict(lane, `Charged ${rows.length} times`, false);
  }
}

function newCart() {
  return crypto.randomUUID().slice(0, 8);
}

function show() {
  $('cart').textContent = cart;
  for (const lane of ['with', 'without']) {
    $(`${lane}-attempts`).replaceChildren();
    $(`${lane}-verdict`).textContent = 'Not paid yet';
    $(`${lane}-verdict`).className = 'verdict';
  }
  $('decide').hidden = true;
  started = undefined;
}

$('checkout').addEventListener('submit', (event) => {
  event.preventDefault();
  void click();
});
$('twice').addEventListener('click', () => {
  $('pay').click();
  $('pay').click();
});
$('reload').addEventListener('click', () => {
  $('pay').click();
  setTimeout(() => location.reload(), SERVER_TAKES_MS / 3);
});
$('new').addEventListener('click', () => {
  cart = localStorage.cart = newCart();
  show();
  void showRows();
});
$('forget').addEventListener('click', async () => {
  await checkout().forget();
  $('pay').click();
});

show();
void showRows();
// A page that was left in mid-flight goes on where it was, with the same key.
const pending = await checkout().pending();
if (pending?.body) {
  started = performance.now();
  verdict('with', 'Going on after the reload …', true);
  void payWith(pending.body);
}
