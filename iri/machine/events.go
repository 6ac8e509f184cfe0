package machine

import (
	"time"

	eventapi "github.com/ironcore-dev/ironcore/iri/apis/event/v1alpha1"
	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	meta "github.com/ironcore-dev/ironcore/iri/apis/meta/v1alpha1"
)

const (
	// eventRing is how many events a machine keeps.
	eventRing = 64
	// eventRepeat is how soon the newest event may be told again.
	eventRepeat = 10 * time.Minute
)

const (
	normal  = "Normal"
	warning = "Warning"
)

// An event is something that happened to a machine, for people. It never holds a secret.
type event struct {
	Time    int64  `json:"time"` // Unix seconds, the unit of IRI's events
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// appendEvent adds e to the ring, unless the newest says the same and is fresh.
func appendEvent(ring []event, e event) ([]event, bool) {
	if n := len(ring); n > 0 {
		last := ring[n-1]
		fresh := e.Time-last.Time < int64(eventRepeat/time.Second)
		if fresh && last.Type == e.Type && last.Reason == e.Reason && last.Message == e.Message {
			return ring, false
		}
	}
	if len(ring) >= eventRing {
		ring = ring[len(ring)-eventRing+1:]
	}
	return append(ring[:len(ring):len(ring)], e), true
}

// listEvents returns the events of one machine within the window, both ends included; a zero end is open.
func listEvents(m *api.Machine, ring []event, from, to int64) []*eventapi.Event {
	involved := &meta.ObjectMetadata{
		Id: m.Metadata.Id, Labels: m.Metadata.Labels, Annotations: m.Metadata.Annotations,
		Generation: m.Metadata.Generation, CreatedAt: m.Metadata.CreatedAt, DeletedAt: m.Metadata.DeletedAt,
	}
	var out []*eventapi.Event
	for _, e := range ring {
		if e.Time < from || to != 0 && e.Time > to {
			continue
		}
		out = append(out, &eventapi.Event{Spec: &eventapi.EventSpec{
			InvolvedObjectMeta: involved, Reason: e.Reason, Message: e.Message, Type: e.Type, EventTime: e.Time,
		}})
	}
	return out
}
