package lab

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of an IronCore image
// (https://github.com/ironcore-dev/ironcore-image/blob/main/OCI-SPEC.md).
const (
	mediaTypeConfig = "application/vnd.ironcore.image.config.v1+json"
	// mediaTypeLayer is followed by kernel, initramfs or rootfs.
	mediaTypeLayer = "application/vnd.ironcore.image."
)

// inputsAnnotation marks a manifest with the digest of what it was made from.
const inputsAnnotation = "ingot.lab.inputs"

// A layer is one file of an image.
type layer struct {
	mediaType string
	data      []byte
}

// layoutHasInputs says whether the layout at dir was made from inputs.
func layoutHasInputs(dir, inputs string) bool {
	data, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return false
	}
	var index ocispec.Index
	return json.Unmarshal(data, &index) == nil && index.Annotations[inputsAnnotation] == inputs
}

// writeLayout replaces the OCI image layout at dir by one image with the tag latest. The index
// goes last: until then a reader sees the old image or none.
func writeLayout(dir, inputs, commandLine string, layers []layer) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]string{"commandLine": commandLine})
	if err != nil {
		return err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
	}
	if manifest.Config, err = writeBlob(dir, layer{mediaTypeConfig, config}); err != nil {
		return err
	}
	for _, l := range layers {
		descriptor, err := writeBlob(dir, l)
		if err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, descriptor)
	}
	encoded, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	root, err := writeBlob(dir, layer{ocispec.MediaTypeImageManifest, encoded})
	if err != nil {
		return err
	}
	root.Annotations = map[string]string{ocispec.AnnotationRefName: "latest"}
	if err := writeJSON(filepath.Join(dir, ocispec.ImageLayoutFile), ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, ocispec.ImageIndexFile), ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Manifests:   []ocispec.Descriptor{root},
		Annotations: map[string]string{inputsAnnotation: inputs},
	})
}

// writeBlob stores a blob under its digest.
func writeBlob(dir string, l layer) (ocispec.Descriptor, error) {
	sum := digest.FromBytes(l.data)
	path := filepath.Join(dir, "blobs", "sha256", sum.Encoded())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return ocispec.Descriptor{}, err
	}
	err := os.WriteFile(path, l.data, 0o644)
	return ocispec.Descriptor{MediaType: l.mediaType, Digest: sum, Size: int64(len(l.data))}, err
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
