package toystripe

import (
	"strings"
	"sync"
)

// Bodies for types without a sample: the least that Stripe sends of any object.
var (
	snapshotEvent = sync.OnceValue(func() template {
		return compile(`{
  "id": "evt_1T7aQ5Kd9vXwEuLrXq3vPz8M",
  "object": "event",
  "api_version": "2023-10-16",
  "created": 1772625600,
  "data": {
    "object": {
      "id": "<object>_1T7aQ5Kd9vXwEuLrB2nYwK6t",
      "object": "<object>",
      "created": 1772625600,
      "livemode": false,
      "metadata": {}
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": null,
    "idempotency_key": null
  },
  "type": "<type>"
}`)
	})
	thinEvent = sync.OnceValue(func() template {
		return compile(`{
  "id": "evt_test_65T7aQ5Kd9vXwEuLr4Zm16SVz0Wc",
  "object": "v2.core.event",
  "type": "<type>",
  "livemode": false,
  "created": "2026-03-04T12:00:00.000Z",
  "related_object": {
    "id": "<object>_1T7aQ5Kd9vXwEuLrB2nYwK6t",
    "type": "<object>",
    "url": "/v1/<object>/<object>_1T7aQ5Kd9vXwEuLrB2nYwK6t"
  },
  "reason": null
}`)
	})
)

func generic(typ string) template {
	if strings.HasPrefix(typ, "v1.") || strings.HasPrefix(typ, "v2.") {
		return thinEvent()
	}
	return snapshotEvent()
}

// objectOf returns the name of the object that a type is about: subscription for customer.subscription.paused.
func objectOf(typ string) string {
	parts := strings.Split(typ, ".")
	name := parts[max(len(parts)-2, 0)]
	odd := func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' }
	if name == "" || strings.IndexFunc(name, odd) >= 0 {
		return "object"
	}
	return name
}
