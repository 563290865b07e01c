// Start it:  cd deploy/examples/node && npm ci && STRIPE_SIGNING_SECRET=whsec_... node server.js
// Stripe, or the gateway, then posts to http://127.0.0.1:8001/ (PORT changes the port). Handled ids go to standard output.

'use strict';

const http = require('node:http');
const { webhooks } = require('stripe'); // verifying needs no API key

const secret = process.env.STRIPE_SIGNING_SECRET;
if (!secret) {
  console.error('STRIPE_SIGNING_SECRET is not set');
  process.exit(1);
}

async function rawBody(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks); // the bytes that were signed: parsing and encoding them again would break the signature
}

function answer(response, status, body) {
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(body) + '\n');
}

async function handle(request, response) {
  if (request.method !== 'POST') return answer(response, 405, { error: 'POST only' });
  const body = await rawBody(request);
  let event;
  try {
    event = webhooks.constructEvent(body, request.headers['stripe-signature'], secret);
  } catch (error) {
    console.error(error.message.split('\n')[0]);
    return answer(response, 400, { error: 'invalid signature' });
  }
  switch (event.type) {
    case 'invoice.paid':
      // here: extend the customer's subscription in your database
      break;
    case 'invoice.payment_failed':
      // here: send the customer an e-mail
      break;
  }
  console.log(event.id);
  answer(response, 200, { received: event.id });
}

http
  .createServer((request, response) => {
    handle(request, response).catch((error) => {
      console.error(error.message);
      response.destroy(); // the body did not arrive whole
    });
  })
  .listen(Number(process.env.PORT || 8001), '127.0.0.1');
