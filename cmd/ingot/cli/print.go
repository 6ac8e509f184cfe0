package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
)

// A printer writes objects for programs.
type printer struct {
	one  func(*v1alpha1.Object) error
	list func([]*v1alpha1.Object) error
}

func printerFor(output string, w io.Writer) (printer, error) {
	switch output {
	case "table", "wide":
		return printer{}, nil
	case "name":
		one := func(o *v1alpha1.Object) error {
			_, err := fmt.Fprintln(w, nameOf(o))
			return err
		}
		return printer{one, func(objects []*v1alpha1.Object) error {
			for _, o := range objects {
				if err := one(o); err != nil {
					return err
				}
			}
			return nil
		}}, nil
	case "json":
		return treePrinter(w, func(tree any) ([]byte, error) {
			raw, err := json.MarshalIndent(tree, "", "  ")
			return append(raw, '\n'), err
		}), nil
	case "yaml":
		return treePrinter(w, func(tree any) ([]byte, error) { return yaml.Marshal(tree) }), nil
	}
	return printer{}, usagef("-o %s: use table, wide, json, yaml or name", output)
}

func treePrinter(w io.Writer, encode func(any) ([]byte, error)) printer {
	write := func(tree any) error {
		raw, err := encode(tree)
		if err != nil {
			return err
		}
		_, err = w.Write(raw)
		return err
	}
	return printer{
		one: func(o *v1alpha1.Object) error {
			tree, err := api.Tree(o)
			if err != nil {
				return err
			}
			return write(tree)
		},
		list: func(objects []*v1alpha1.Object) error {
			items := make([]any, 0, len(objects))
			for _, o := range objects {
				tree, err := api.Tree(o)
				if err != nil {
					return err
				}
				items = append(items, tree)
			}
			return write(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
		},
	}
}

// A column of a table. Value gets the object's manifest tree.
type column struct {
	header string
	value  func(tree map[string]any) string
	wide   bool
}

// at reads a path such as status.state; lists are joined by commas.
func at(path string) func(map[string]any) string {
	keys := strings.Split(path, ".")
	return func(tree map[string]any) string {
		if text := strings.Join(collect(tree, keys), ","); text != "" {
			return text
		}
		return "-"
	}
}

func collect(v any, keys []string) []string {
	if list, ok := v.([]any); ok {
		var all []string
		for _, item := range list {
			all = append(all, collect(item, keys)...)
		}
		return all
	}
	if len(keys) == 0 {
		if v == nil || v == "" {
			return nil
		}
		return []string{fmt.Sprint(v)}
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	return collect(m[keys[0]], keys[1:])
}

// bytesAt reads a quantity of bytes and shows it in the largest unit that leaves at least 1.
func bytesAt(path string) func(map[string]any) string {
	return func(tree map[string]any) string {
		q, err := resource.ParseQuantity(at(path)(tree))
		if err != nil {
			return "-"
		}
		n, unit := float64(q.Value()), ""
		for _, next := range []string{"Ki", "Mi", "Gi", "Ti", "Pi"} {
			if n < 1024 {
				break
			}
			n, unit = n/1024, next
		}
		return strings.TrimSuffix(strconv.FormatFloat(n, 'f', 1, 64), ".0") + unit
	}
}

// either is the first that is set.
func either(paths ...string) func(map[string]any) string {
	return func(tree map[string]any) string {
		for _, p := range paths {
			if v := at(p)(tree); v != "-" {
				return v
			}
		}
		return "-"
	}
}

// columns are those between NAME and AGE.
var columns = map[string][]column{
	"Project": {{header: "DESCRIPTION", value: at("spec.description")}},
	"Event": {
		{header: "TYPE", value: at("type")}, {header: "REASON", value: at("reason")},
		{header: "OBJECT", value: func(t map[string]any) string {
			return strings.ToLower(at("involvedObject.kind")(t)) + "/" + at("involvedObject.name")(t)
		}},
		{header: "COUNT", value: at("count")}, {header: "MESSAGE", value: at("message")},
		{header: "SOURCE", value: at("source"), wide: true},
	},
	"MachineClass": {{header: "CPU", value: at("capabilities.cpu")}, {header: "MEMORY", value: at("capabilities.memory")}},
	"MachinePool": {
		{header: "STATE", value: at("status.state")},
		{header: "CPU", value: at("status.capacity.cpu")}, {header: "MEMORY", value: bytesAt("status.capacity.memory")},
		{header: "FREE-CPU", value: at("status.allocatable.cpu")}, {header: "FREE-MEMORY", value: bytesAt("status.allocatable.memory")},
		{header: "FREE-DISK", value: bytesAt("status.allocatable.disk")},
		{header: "ADDRESSES", value: at("status.addresses.address"), wide: true},
		{header: "VERSION", value: at("status.agentVersion"), wide: true},
	},
	"Machine": {
		{header: "CLASS", value: at("spec.machineClassRef.name")},
		{header: "POOL", value: either("status.machinePoolRef.name", "spec.machinePoolRef.name")},
		{header: "STATE", value: at("status.state")},
		{header: "IPS", value: at("status.networkInterfaces.ips")},
		{header: "WAITS-FOR", value: waitsFor},
		{header: "ID", value: at("status.machineID"), wide: true},
	},
	"Network": {{header: "STATE", value: at("status.state")}, {header: "VNI", value: at("status.vni")}},
	"NetworkInterface": {
		{header: "NETWORK", value: at("spec.networkRef.name")}, {header: "MACHINE", value: at("spec.machineRef.name")},
		{header: "STATE", value: at("status.state")}, {header: "IPS", value: at("status.ips")},
		{header: "MAC", value: at("status.mac"), wide: true}, {header: "VNI", value: at("status.vni"), wide: true},
	},
	"NetworkPolicy": {
		{header: "NETWORK", value: at("spec.networkRef.name")}, {header: "TYPES", value: at("spec.policyTypes")},
		{header: "INTERFACES", value: at("status.selectedInterfaces")},
	},
	"Prefix": {
		{header: "PREFIX", value: either("status.prefix", "spec.prefix")}, {header: "PARENT", value: at("spec.parentRef.name")},
		{header: "PHASE", value: at("status.phase")}, {header: "USED", value: at("status.used"), wide: true},
	},
	"PrefixAllocation": {
		{header: "PREFIX", value: at("spec.prefix")}, {header: "FROM", value: at("spec.prefixRef.name")},
		{header: "HOLDER", value: func(t map[string]any) string {
			return strings.ToLower(at("spec.holderKind")(t)) + "/" + at("spec.holderName")(t)
		}},
	},
}

// waitsFor is the message of the first condition that does not hold.
func waitsFor(tree map[string]any) string {
	status, _ := tree["status"].(map[string]any)
	conditions, _ := status["conditions"].([]any)
	for _, c := range conditions {
		c, _ := c.(map[string]any)
		if c["status"] == "False" {
			if text, _ := c["message"].(string); text != "" {
				return text
			}
			return fmt.Sprint(c["reason"])
		}
	}
	return "-"
}

// A table prints rows under a header that is written once.
type table struct {
	w       io.Writer
	columns []column
	widths  []int
}

func newTable(w io.Writer, info api.Info, wide, all bool, now func() time.Time) *table {
	t := &table{w: w}
	if all && !info.Global {
		t.columns = append(t.columns, column{header: "NAMESPACE", value: at("metadata.namespace")})
	}
	born := column{header: "AGE", value: ageAt("metadata.creationTimestamp", now)}
	if info.Kind == api.Event { // its name says nothing, and what counts is when it happened last
		born = column{header: "LAST", value: ageAt("lastTimestamp", now)}
	} else {
		t.columns = append(t.columns, column{header: "NAME", value: at("metadata.name")})
	}
	for _, c := range columns[string(info.Kind)] {
		if wide || !c.wide {
			t.columns = append(t.columns, c)
		}
	}
	t.columns = append(t.columns, born)
	return t
}

// ageAt is how long ago the time at path was.
func ageAt(path string, now func() time.Time) func(map[string]any) string {
	return func(tree map[string]any) string {
		then, err := time.Parse(time.RFC3339Nano, at(path)(tree))
		if err != nil {
			return "-"
		}
		return age(now().Sub(then))
	}
}

// write prints rows; columns keep the width they had, or grow.
func (t *table) write(objects ...*v1alpha1.Object) error {
	var rows [][]string
	if t.widths == nil {
		t.widths = make([]int, len(t.columns))
		header := make([]string, len(t.columns))
		for i, c := range t.columns {
			header[i] = c.header
		}
		rows = append(rows, header)
	}
	for _, o := range objects {
		tree, err := api.Tree(o)
		if err != nil {
			return err
		}
		row := make([]string, len(t.columns))
		for i, c := range t.columns {
			row[i] = c.value(tree)
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		for i, cell := range row {
			t.widths[i] = max(t.widths[i], len(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i == len(row)-1 {
				line.WriteString(cell)
			} else {
				fmt.Fprintf(&line, "%-*s", t.widths[i]+3, cell)
			}
		}
		if _, err := fmt.Fprintln(t.w, line.String()); err != nil {
			return err
		}
	}
	return nil
}

// age is d in one or two units.
func age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
