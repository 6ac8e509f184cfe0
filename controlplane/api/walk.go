package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
)

// A walker fills messages from JSON trees and collects every fault with its path. protojson
// would stop at the first one and tell a column instead of a path.
type walker struct {
	faults fault.Fields
}

// ignoredMeta is what Kubernetes prints into manifests and nobody means.
var ignoredMeta = []string{"managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences"}

func (w *walker) metadata(v any, meta *v1alpha1.ObjectMeta) {
	tree, ok := v.(map[string]any)
	if !ok {
		w.faults.Add("metadata", "required: an object with a name")
		return
	}
	kept := map[string]any{}
	for k, v := range tree {
		if !slices.Contains(ignoredMeta, k) {
			kept[k] = v
		}
	}
	w.message("metadata", meta, kept)
	if meta.Name == "" {
		w.faults.Add("metadata.name", "required")
	}
}

func (w *walker) message(path string, m proto.Message, tree map[string]any) {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for _, key := range sortedKeys(tree) {
		v := tree[key]
		fd := fields.ByJSONName(key)
		if fd == nil {
			w.faults.Add(join(path, key), "unknown field; %s", known(key, fields))
			continue
		}
		if v == nil {
			continue
		}
		at := join(path, key)
		switch {
		case fd.IsList():
			w.list(at, r, fd, v)
		case fd.IsMap():
			w.stringMap(at, r, fd, v)
		default:
			if value, ok := w.value(at, fd, v, func() protoreflect.Value { return r.NewField(fd) }); ok {
				r.Set(fd, value)
			}
		}
	}
}

func (w *walker) list(at string, r protoreflect.Message, fd protoreflect.FieldDescriptor, v any) {
	items, ok := v.([]any)
	if !ok {
		w.faults.Add(at, "expected a list, got %s", typeName(v))
		return
	}
	list := r.Mutable(fd).List()
	for i, item := range items {
		if value, ok := w.value(fmt.Sprintf("%s[%d]", at, i), fd, item, list.NewElement); ok {
			list.Append(value)
		}
	}
}

func (w *walker) stringMap(at string, r protoreflect.Message, fd protoreflect.FieldDescriptor, v any) {
	tree, ok := v.(map[string]any)
	if !ok {
		w.faults.Add(at, "expected an object, got %s", typeName(v))
		return
	}
	m := r.Mutable(fd).Map()
	for _, key := range sortedKeys(tree) {
		if value, ok := w.value(join(at, key), fd.MapValue(), tree[key], m.NewValue); ok {
			m.Set(protoreflect.ValueOfString(key).MapKey(), value)
		}
	}
}

// value converts one JSON value; fresh makes an empty message of the field's type.
func (w *walker) value(at string, fd protoreflect.FieldDescriptor, v any, fresh func() protoreflect.Value) (protoreflect.Value, bool) {
	var none protoreflect.Value
	if fd.Kind() == protoreflect.MessageKind && fd.Message().FullName() == "google.protobuf.Timestamp" {
		t, err := time.Parse(time.RFC3339, fmt.Sprint(v))
		if err != nil {
			w.faults.Add(at, "expected a time such as 2026-01-31T12:00:00Z, got %v", v)
			return none, false
		}
		return protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()), true
	}
	switch fd.Kind() {
	case protoreflect.MessageKind:
		tree, ok := v.(map[string]any)
		if !ok {
			w.faults.Add(at, "expected an object, got %s", typeName(v))
			return none, false
		}
		value := fresh()
		w.message(at, value.Message().Interface(), tree)
		return value, true
	case protoreflect.StringKind:
		// A quantity may be written as a number.
		if n, ok := v.(json.Number); ok {
			return protoreflect.ValueOfString(n.String()), true
		}
		if s, ok := v.(string); ok {
			return protoreflect.ValueOfString(s), true
		}
	case protoreflect.BoolKind:
		if b, ok := v.(bool); ok {
			return protoreflect.ValueOfBool(b), true
		}
	case protoreflect.BytesKind:
		if s, ok := v.(string); ok {
			raw, err := base64.StdEncoding.DecodeString(s)
			if err == nil {
				return protoreflect.ValueOfBytes(raw), true
			}
			w.faults.Add(at, "not base64: %v", err)
			return none, false
		}
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		bits, text := 64, fmt.Sprint(v)
		if fd.Kind() == protoreflect.Uint32Kind {
			bits = 32
		}
		if n, err := strconv.ParseUint(text, 10, bits); err == nil {
			if bits == 32 {
				return protoreflect.ValueOfUint32(uint32(n)), true
			}
			return protoreflect.ValueOfUint64(n), true
		}
		w.faults.Add(at, "expected a whole number from 0 to %d, got %v", uint64(math.MaxUint64)>>(64-bits), text)
		return none, false
	}
	w.faults.Add(at, "expected %s, got %s", kindName(fd.Kind()), typeName(v))
	return none, false
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	if strings.ContainsAny(key, "./") {
		return path + "[" + key + "]"
	}
	return path + "." + key
}

// known lists what key could have meant: one close name, or all.
func known(key string, fields protoreflect.FieldDescriptors) string {
	names := make([]string, fields.Len())
	for i := range names {
		names[i] = fields.Get(i).JSONName()
		if strings.EqualFold(names[i], key) || strings.EqualFold(strings.TrimSuffix(names[i], "s"), strings.TrimSuffix(key, "s")) {
			return fmt.Sprintf("did you mean %q?", names[i])
		}
	}
	return "known are " + strings.Join(names, ", ")
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func kindName(k protoreflect.Kind) string {
	switch k {
	case protoreflect.StringKind:
		return "text"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.BytesKind:
		return "base64 text"
	}
	return k.String()
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case string:
		return "text"
	case bool:
		return "true or false"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}
