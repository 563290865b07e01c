package main

import (
	"net/url"
	"time"
)

// page is something that a reader asks the admin listener for. Each time it is about another of the events filled in.
type page struct {
	name string
	url  func(i int64, m mark) string
}

// mark is a place in the journal: a time, and the cursor of what was received before it.
type mark struct {
	at     time.Time
	cursor string
}

// pages are what is asked for, each filter on the page and in the API.
var pages = func() []page {
	all := []page{
		{"/events/{id}", func(i int64, _ mark) string { return "/events/" + eventID(i) }},
		{"/api/v1/events/{id}", func(i int64, _ mark) string { return "/api/v1/events/" + eventID(i) }},
		{"/api/v1/events/{id}/body", func(i int64, _ mark) string { return "/api/v1/events/" + eventID(i) + "/body" }},
	}
	for _, u := range []string{
		"/", "/backends", "/sources", "/quarantine", "/config", "/config?type=invoice.paid", "/api/v1/stats", "/api/v1/backends",
		"/api/v1/sources", "/api/v1/quarantine", "/api/v1/config", "/api/v1/jobs", "/api/v1/audit",
	} {
		all = append(all, page{u, func(int64, mark) string { return u }})
	}
	for _, path := range []string{"/events", "/api/v1/events"} {
		for _, f := range filters {
			all = append(all, page{path + f.name, func(i int64, m mark) string { return path + f.url(i, m) }})
		}
	}
	return all
}()

// filters are lists of events: each filter alone, some that are rarely or never met, and deep ones.
var filters = func() []page {
	all := []page{
		{"?object=", func(i int64, _ mark) string { return "?object=" + objectID(i) }},
		{"?customer=", func(i int64, _ mark) string { return "?customer=" + customerID(i) }},
		{"?account=", func(i int64, _ mark) string { return "?account=" + accountID(i) }},
		{"?q=event", func(i int64, _ mark) string { return "?q=" + eventID(i) }},
		{"?q=object", func(i int64, _ mark) string { return "?q=" + objectID(i) }},
		{"?q=customer", func(i int64, _ mark) string { return "?q=" + customerID(i) }},
		{"?q=account", func(i int64, _ mark) string { return "?q=" + accountID(i) }},
		{"?since=", func(_ int64, m mark) string { return "?since=" + m.time(0) }},
		{"?until=", func(_ int64, m mark) string { return "?until=" + m.time(0) }},
		{"?since=&until=", func(_ int64, m mark) string { return "?since=" + m.time(-time.Minute) + "&until=" + m.time(0) }},
		{"?cursor=", func(_ int64, m mark) string { return "?cursor=" + m.cursor }},
	}
	for _, s := range []string{
		"", "?state=pending", "?state=delivered", "?state=failed", "?state=ignored", "?source=" + sourceName,
		"?backend=" + backendName, "?backend=" + downName, "?backend=" + backendName + "&state=pending", // the last: none
		"?backend=" + downName + "&state=pending", "?backend=" + downName + "&state=failed",
		"?type=charge.succeeded", "?type=c*", "?type=invoice.paid", // the last: none
	} {
		all = append(all, page{s, func(int64, mark) string { return s }})
	}
	for _, s := range []string{"?state=pending", "?state=failed", "?backend=" + downName, "?type=charge.succeeded"} {
		all = append(all, page{s + "&cursor=", func(_ int64, m mark) string { return s + "&cursor=" + m.cursor }})
	}
	return all
}()

func (m mark) time(add time.Duration) string {
	return url.QueryEscape(m.at.Add(add).Format(time.RFC3339Nano))
}
