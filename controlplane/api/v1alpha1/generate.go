// Package v1alpha1 is the wire form of the API: the specs and statuses of all kinds, and the
// services. Field names are those of IronCore's API, so that its manifests apply unchanged.
package v1alpha1

//go:generate protoc -Iingot/v1alpha1=. -I/usr/include --plugin=protoc-gen-go=../../../bin/protoc-gen-go --plugin=protoc-gen-go-grpc=../../../bin/protoc-gen-go-grpc --go_out=. --go_opt=module=ingot/controlplane/api/v1alpha1 --go-grpc_out=. --go-grpc_opt=module=ingot/controlplane/api/v1alpha1 --include_source_info --descriptor_set_out=descriptors.binpb ingot/v1alpha1/meta.proto ingot/v1alpha1/core.proto ingot/v1alpha1/ipam.proto ingot/v1alpha1/networking.proto ingot/v1alpha1/compute.proto ingot/v1alpha1/hostview.proto ingot/v1alpha1/service.proto
