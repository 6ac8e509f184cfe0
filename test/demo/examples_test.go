package main

import (
	"os"
	"path/filepath"
	"testing"

	"ingot/controlplane/api"
)

func TestExamplesAreManifests(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("found %d manifests, error %v", len(files), err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			objects, err := api.ReadManifests(f)
			if err != nil {
				t.Error(err)
			}
			if len(objects) == 0 {
				t.Error("no object")
			}
		})
	}
}
