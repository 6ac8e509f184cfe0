package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
)

func (s *session) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "explain [KIND[.FIELD...]]",
		Short:   "Show kinds and their fields",
		Example: "  ingot explain machine\n  ingot explain machine.spec.networkInterfaces",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return s.explainKinds()
			}
			path := strings.Split(args[0], ".")
			info, err := findKind(path[0])
			if err != nil {
				return err
			}
			return s.explain(info, path[1:])
		},
		ValidArgsFunction: completeKinds,
	}
}

func (s *session) explainKinds() error {
	fmt.Fprintf(s.out, "%-18s %-28s %-34s %s\n", "KIND", "NAMES", "APIVERSION", "IN A PROJECT")
	for _, info := range api.Kinds() {
		if info.Group == "" {
			continue
		}
		names := strings.Join(append([]string{info.Plural}, info.Short...), ",")
		fmt.Fprintf(s.out, "%-18s %-28s %-34s %t\n", info.Kind, names, info.APIVersion(), !info.Global)
	}
	return nil
}

func (s *session) explain(info api.Info, path []string) error {
	md := info.New().ProtoReflect().Descriptor()
	if !info.Flat && len(path) > 0 {
		switch {
		case path[0] == "spec":
		case path[0] == "status" && info.Status != nil:
			md = info.Status().ProtoReflect().Descriptor()
		default:
			return usagef("%s has no %q; it has spec%s", info.Kind, path[0], statusWord(info))
		}
		path = path[1:]
	}
	where := string(info.Kind)
	for _, name := range path {
		fd := md.Fields().ByJSONName(name)
		if fd == nil {
			return usagef("%s has no field %q; it has %s", where, name, fieldNames(md))
		}
		where += "." + name
		if fd.Kind() != protoreflect.MessageKind || fd.IsMap() {
			fmt.Fprintf(s.out, "%s <%s>\n  %s\n", where, fieldType(fd), v1alpha1.Comment(fd))
			return nil
		}
		md = fd.Message()
	}
	fmt.Fprintf(s.out, "%s (%s)\n%s\n\nFIELDS\n", where, info.APIVersion(), v1alpha1.Comment(md))
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		fmt.Fprintf(s.out, "  %s <%s>\n", fd.JSONName(), fieldType(fd))
		if c := v1alpha1.Comment(fd); c != "" {
			fmt.Fprintf(s.out, "    %s\n", c)
		}
	}
	return nil
}

func statusWord(info api.Info) string {
	if info.Status == nil {
		return ""
	}
	return " and status"
}

func fieldNames(md protoreflect.MessageDescriptor) string {
	names := make([]string, md.Fields().Len())
	for i := range names {
		names[i] = md.Fields().Get(i).JSONName()
	}
	return strings.Join(names, ", ")
}

func fieldType(fd protoreflect.FieldDescriptor) string {
	scalar := func(fd protoreflect.FieldDescriptor) string {
		if fd.Kind() == protoreflect.MessageKind {
			return string(fd.Message().Name())
		}
		return fd.Kind().String()
	}
	switch {
	case fd.IsMap():
		return "map " + scalar(fd.MapKey()) + " to " + scalar(fd.MapValue())
	case fd.IsList():
		return "list of " + scalar(fd)
	}
	return scalar(fd)
}
