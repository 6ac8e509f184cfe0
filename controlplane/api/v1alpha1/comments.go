package v1alpha1

import (
	_ "embed"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

//go:embed descriptors.binpb
var descriptors []byte

// commented are the descriptors with the comments that generated code leaves out.
var commented = sync.OnceValue(func() *protoregistry.Files {
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(descriptors, set); err != nil {
		panic("descriptors.binpb: " + err.Error())
	}
	files := &protoregistry.Files{}
	for _, fd := range set.File {
		file, err := (protodesc.FileOptions{AllowUnresolvable: true}).New(fd, protoregistry.GlobalFiles)
		if err == nil {
			err = files.RegisterFile(file)
		}
		if err != nil {
			panic("descriptors.binpb: " + err.Error())
		}
	}
	return files
})

// Comment is what the .proto file says about a message or field, on one line; empty when nothing.
func Comment(d protoreflect.Descriptor) string {
	found, err := commented().FindDescriptorByName(d.FullName())
	if err != nil {
		return ""
	}
	text := found.ParentFile().SourceLocations().ByDescriptor(found).LeadingComments
	return strings.Join(strings.Fields(text), " ")
}
