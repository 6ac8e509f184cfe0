// Package condition keeps lists of conditions: each tells one aspect of a status and since when.
package condition

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
)

// The values of a condition's status.
const (
	True    = "True"
	False   = "False"
	Unknown = "Unknown"
)

// One is the list of a status that has one condition. The time of its last transition is kept from
// before while the status stays the same, so that telling the same again changes nothing.
func One(before []*v1alpha1.Condition, typ, status, reason, message string) []*v1alpha1.Condition {
	c := &v1alpha1.Condition{Type: typ, Status: status, Reason: reason, Message: message}
	if old := Get(before, typ); old.GetStatus() == status && old.GetLastTransitionTime() != nil {
		c.LastTransitionTime = old.GetLastTransitionTime()
	} else {
		c.LastTransitionTime = timestamppb.New(time.Now())
	}
	return []*v1alpha1.Condition{c}
}

// Message is err for people: without the class of error at its end, which is for programs.
func Message(err error) string {
	text := err.Error()
	for _, class := range []error{fault.Invalid, fault.Exhausted, fault.Unavailable} {
		if errors.Is(err, class) {
			text = strings.TrimSuffix(text, ": "+class.Error())
		}
	}
	return text
}

// Get is the condition of a type; nil when there is none.
func Get(conditions []*v1alpha1.Condition, typ string) *v1alpha1.Condition {
	for _, c := range conditions {
		if c.GetType() == typ {
			return c
		}
	}
	return nil
}
