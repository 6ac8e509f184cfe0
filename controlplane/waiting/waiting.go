// Package waiting remembers which keys wait for what, so that a change wakes those that it can help
// and nobody else. It is a cache in memory: after a restart every key is reconciled and waits again.
package waiting

import (
	"slices"
	"sync"

	"ingot/runtime/resource"
)

// A List is who waits for what. The zero value is empty.
type List struct {
	mu     sync.Mutex // guards all below
	topics map[string]map[resource.Key]bool
	keys   map[resource.Key][]string
}

// For makes key wait for topics, and for nothing else. Call it before reading what the topics stand
// for: what changes after the read then wakes the key.
func (l *List) For(key resource.Key, topics ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(key)
	if len(topics) == 0 {
		return
	}
	if l.keys == nil {
		l.keys, l.topics = map[resource.Key][]string{}, map[string]map[resource.Key]bool{}
	}
	l.keys[key] = topics
	for _, t := range topics {
		if l.topics[t] == nil {
			l.topics[t] = map[resource.Key]bool{}
		}
		l.topics[t][key] = true
	}
}

// Done makes key wait for nothing.
func (l *List) Done(key resource.Key) { l.For(key) }

// On are the keys that wait for topic, in order.
func (l *List) On(topic string) []resource.Key {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := make([]resource.Key, 0, len(l.topics[topic]))
	for k := range l.topics[topic] {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, resource.Key.Compare)
	return keys
}

func (l *List) forget(key resource.Key) {
	for _, t := range l.keys[key] {
		delete(l.topics[t], key)
		if len(l.topics[t]) == 0 {
			delete(l.topics, t)
		}
	}
	delete(l.keys, key)
}
