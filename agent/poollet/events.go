package poollet

import (
	"context"
	"fmt"
	"time"

	irievent "github.com/ironcore-dev/ironcore/iri/apis/event/v1alpha1"
	iri "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
)

// pollEvents is how often the runtime is asked for events.
const pollEvents = 2 * time.Second

// RunEvents forwards the runtime's events until ctx ends.
func (p *Poollet) RunEvents(ctx context.Context) error {
	from := time.Now()
	seen := map[string]bool{} // events of the window's overlap, which were forwarded
	ticker := time.NewTicker(pollEvents)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		// Times are whole seconds and the window includes its ends, so two windows overlap.
		until := time.Now()
		reply, err := p.runtime.ListEvents(ctx, &iri.ListEventsRequest{Filter: &iri.EventFilter{
			EventsFromTime: from.Unix(), EventsToTime: until.Unix()}})
		if err != nil {
			p.log.Debug("list events of runtime", "error", err)
			continue
		}
		now := map[string]bool{}
		for _, e := range reply.Events {
			id := fmt.Sprint(e.GetSpec().GetInvolvedObjectMeta().GetId(), e.GetSpec().GetEventTime(), e.GetSpec().GetReason(), e.GetSpec().GetMessage())
			now[id] = true
			if !seen[id] {
				p.forward(e.GetSpec())
			}
		}
		from, seen = until, now
	}
}

func (p *Poollet) forward(e *irievent.EventSpec) {
	labels := e.GetInvolvedObjectMeta().GetLabels()
	if labels[uidLabel] == "" {
		return
	}
	at := timestamppb.New(time.Unix(e.EventTime, 0))
	p.reporter.ReportEvents(&v1alpha1.EventSpec{
		InvolvedObject: &v1alpha1.ObjectRef{Kind: string(api.Machine), Namespace: labels[namespaceLabel],
			Name: labels[nameLabel], Uid: labels[uidLabel]},
		Type: e.Type, Reason: e.Reason, Message: e.Message, Count: 1, FirstTimestamp: at, LastTimestamp: at,
	})
}
