<?php
// Start it:  STRIPE_SIGNING_SECRET=whsec_... php -S 127.0.0.1:8000 -t deploy/examples/php
// Stripe, or the gateway, then posts to http://127.0.0.1:8000/webhook.php. Handled ids are appended to PROCESSED_LOG.

// A handler as Stripe's documentation has described it for years, without any library. It knows nothing of the gateway.

const TOLERANCE = 300; // seconds, before and after our clock

function answer(int $status, array $body): void
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo json_encode($body), "\n";
    exit;
}

/** Whether $header signs $payload with $secret: "t=<unix time>,v1=<hex>[,v1=<hex>]". */
function signature_is_valid(string $payload, string $header, string $secret): bool
{
    $time = null;
    $signatures = [];
    foreach (explode(',', $header) as $element) {
        $pair = explode('=', $element, 2);
        if ($pair[0] === 't' && ctype_digit($pair[1] ?? '')) {
            $time = $pair[1];
        } elseif ($pair[0] === 'v1' && isset($pair[1])) {
            $signatures[] = $pair[1];
        }
    }
    if ($time === null || abs(time() - (int) $time) > TOLERANCE) {
        return false;
    }
    $expected = hash_hmac('sha256', $time . '.' . $payload, $secret);
    foreach ($signatures as $signature) {
        if (hash_equals($expected, $signature)) {
            return true;
        }
    }
    return false;
}

$secret = getenv('STRIPE_SIGNING_SECRET');
if ($secret === false || $secret === '') {
    answer(500, ['error' => 'STRIPE_SIGNING_SECRET is not set']);
}
if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
    answer(405, ['error' => 'POST only']);
}

$payload = file_get_contents('php://input');
if (!signature_is_valid($payload, $_SERVER['HTTP_STRIPE_SIGNATURE'] ?? '', $secret)) {
    answer(400, ['error' => 'invalid signature']);
}

$event = json_decode($payload);
if (!isset($event->id, $event->type)) {
    answer(400, ['error' => 'not an event']);
}

switch ($event->type) {
    case 'invoice.paid':
        $done = 'access extended'; // here: extend the customer's subscription in your database
        break;
    case 'invoice.payment_failed':
        $done = 'customer reminded'; // here: send the customer an e-mail
        break;
    case 'customer.subscription.deleted':
        $done = 'access ended'; // here: close the customer's account
        break;
    default:
        $done = 'nothing to do';
}

// An event may come more than once. A real handler keeps the ids in its database, under a unique key, and returns early.
$log = getenv('PROCESSED_LOG') ?: sys_get_temp_dir() . '/webhook-processed.txt';
if (file_put_contents($log, $event->id . "\n", FILE_APPEND | LOCK_EX) === false) {
    answer(500, ['error' => 'cannot write ' . $log]);
}
answer(200, ['received' => $event->id, 'done' => $done]);
