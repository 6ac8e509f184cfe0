package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"gopkg.in/yaml.v3"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"

	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
	"ingot/runtime/resource"
)

// aliases are kinds of Kubernetes that manifests for IronCore use beside IronCore's own.
var aliases = map[string]resource.Kind{"v1/Secret": Secret, "v1/Namespace": Project, "v1/Event": Event}

// ReadManifests parses a stream of YAML or JSON documents, in order. The error of a document
// names its place: document 2: Machine "x": spec.foo: unknown field.
func ReadManifests(r io.Reader) ([]*v1alpha1.Object, error) {
	var objects []*v1alpha1.Object
	docs := kyaml.NewYAMLReader(bufio.NewReader(r))
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w: %w", n, fault.Invalid, err)
		}
		parsed, err := parseDocument(doc)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		objects = append(objects, parsed...)
	}
}

func parseDocument(doc []byte) ([]*v1alpha1.Object, error) {
	// YAML 1.2's booleans: `power: Off` is text here, as its author means it.
	var parsed any
	if err := yaml.Unmarshal(doc, &parsed); err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	value, err := jsonValue(parsed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	if value == nil {
		return nil, nil
	}
	tree, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: not an object with apiVersion and kind", fault.Invalid)
	}
	if items, ok := tree["items"].([]any); ok && strings.HasSuffix(fmt.Sprint(tree["kind"]), "List") {
		return parseList(items)
	}
	o, err := ParseObject(tree)
	if err != nil {
		return nil, err
	}
	return []*v1alpha1.Object{o}, nil
}

// jsonValue turns what the YAML decoder gives into what a JSON decoder with numbers as text would.
func jsonValue(v any) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		for key, item := range v {
			converted, err := jsonValue(item)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			v[key] = converted
		}
	case []any:
		for i, item := range v {
			converted, err := jsonValue(item)
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			v[i] = converted
		}
	case map[any]any:
		return nil, errors.New("a key that is not text; quote it")
	case int, int64, uint64:
		return json.Number(fmt.Sprint(v)), nil
	case float64:
		return json.Number(strconv.FormatFloat(v, 'f', -1, 64)), nil
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	}
	return v, nil
}

func parseList(items []any) ([]*v1alpha1.Object, error) {
	objects := make([]*v1alpha1.Object, 0, len(items))
	for i, item := range items {
		tree, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("items[%d]: %w: not an object", i, fault.Invalid)
		}
		o, err := ParseObject(tree)
		if err != nil {
			return nil, fmt.Errorf("items[%d]: %w", i, err)
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// ParseObject turns the JSON tree of one manifest (numbers as json.Number) into an Object, with
// every fault of it. A status is ignored: only the server writes it.
func ParseObject(tree map[string]any) (*v1alpha1.Object, error) {
	kind, _ := tree["kind"].(string)
	apiVersion, _ := tree["apiVersion"].(string)
	if kind == "" || apiVersion == "" {
		return nil, fault.Fields{{Path: "kind", Detail: "apiVersion and kind are required"}}
	}
	info, err := kindOf(apiVersion, kind)
	if err != nil {
		return nil, err
	}
	w := &walker{}
	meta := &v1alpha1.ObjectMeta{}
	w.metadata(tree["metadata"], meta)
	spec := info.New()
	specTree := map[string]any{}
	specPath := "spec"
	for key, v := range tree {
		switch {
		case key == "apiVersion" || key == "kind" || key == "metadata" || key == "status":
		case info.Flat:
			specTree[key], specPath = v, ""
		case key == "spec":
			if m, ok := v.(map[string]any); ok {
				specTree = m
			} else if v != nil {
				w.faults.Add("spec", "expected an object, got %s", typeName(v))
			}
		default:
			w.faults.Add(key, "unknown field; %s has apiVersion, kind, metadata, spec", info.Kind)
		}
	}
	w.message(specPath, spec, specTree)
	if err := w.faults.Err(); err != nil {
		return nil, fmt.Errorf("%s %q: %w", info.Kind, meta.Name, err)
	}
	packed, err := anypb.New(spec)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", info.Kind, meta.Name, err)
	}
	return &v1alpha1.Object{ApiVersion: info.APIVersion(), Kind: string(info.Kind), Metadata: meta, Spec: packed}, nil
}

func kindOf(apiVersion, kind string) (Info, error) {
	if k, ok := aliases[apiVersion+"/"+kind]; ok {
		info, _ := Lookup(k)
		return info, nil
	}
	info, ok := Lookup(resource.Kind(kind))
	if !ok || info.Group == "" {
		return Info{}, fault.Fields{{Path: "kind", Detail: fmt.Sprintf("no such kind %q; see `ingot explain`", kind)}}
	}
	if apiVersion != info.APIVersion() {
		return Info{}, fault.Fields{{Path: "apiVersion",
			Detail: fmt.Sprintf("%q is not served for %s; use %q", apiVersion, kind, info.APIVersion())}}
	}
	return info, nil
}

// Tree is o as the JSON tree of a manifest, for printing as JSON or YAML.
func Tree(o *v1alpha1.Object) (map[string]any, error) {
	info, ok := Lookup(resource.Kind(o.GetKind()))
	if !ok {
		return nil, fmt.Errorf("kind %q: %w", o.GetKind(), fault.NotFound)
	}
	tree := map[string]any{}
	if spec, err := Spec(o); err != nil {
		return nil, err
	} else if spec != nil {
		fields, err := jsonTree(spec)
		if err != nil {
			return nil, err
		}
		if info.Flat {
			tree = fields
		} else {
			tree["spec"] = fields
		}
	}
	if status, err := Status(o); err != nil {
		return nil, err
	} else if status != nil {
		if tree["status"], err = jsonTree(status); err != nil {
			return nil, err
		}
	}
	meta, err := jsonTree(o.GetMetadata())
	if err != nil {
		return nil, err
	}
	if g, ok := meta["generation"].(string); ok {
		if n, err := strconv.ParseUint(g, 10, 64); err == nil {
			meta["generation"] = n
		}
	}
	tree["apiVersion"], tree["kind"], tree["metadata"] = o.GetApiVersion(), o.GetKind(), meta
	return tree, nil
}

func jsonTree(m proto.Message) (map[string]any, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	tree := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return tree, dec.Decode(&tree)
}
