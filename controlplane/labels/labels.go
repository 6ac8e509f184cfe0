// Package labels matches label selectors. It does no I/O.
package labels

import (
	"fmt"
	"slices"

	"ingot/controlplane/api/v1alpha1"
)

// A Selector is a LabelSelector or an ObjectSelector of the API. All parts must hold; one without
// parts matches everything.
type Selector interface {
	GetMatchLabels() map[string]string
	GetMatchExpressions() []*v1alpha1.LabelRequirement
}

// Matches reports whether labels have what s asks for. Unknown operators match nothing.
func Matches(s Selector, labels map[string]string) bool {
	return HasAll(labels, s.GetMatchLabels()) &&
		!slices.ContainsFunc(s.GetMatchExpressions(), func(r *v1alpha1.LabelRequirement) bool { return !meets(r, labels) })
}

// HasAll reports whether labels contain all of want.
func HasAll(labels, want map[string]string) bool {
	for k, v := range want {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func meets(r *v1alpha1.LabelRequirement, labels map[string]string) bool {
	v, has := labels[r.GetKey()]
	switch r.GetOperator() {
	case "In":
		return has && slices.Contains(r.GetValues(), v)
	case "NotIn":
		return !has || !slices.Contains(r.GetValues(), v)
	case "Exists":
		return has
	case "DoesNotExist":
		return !has
	}
	return false
}

// Validate reports an unknown operator.
func Validate(s Selector) error {
	for _, r := range s.GetMatchExpressions() {
		switch r.GetOperator() {
		case "In", "NotIn", "Exists", "DoesNotExist":
		default:
			return fmt.Errorf("selector operator %q of %q is none of In, NotIn, Exists, DoesNotExist", r.GetOperator(), r.GetKey())
		}
	}
	return nil
}
