// Package scheduler owns where machines run: it filters and scores pools and writes MachinePlacement
// and, in the same transaction, MachinePoolUsage, the sum of what is placed on a pool. Comparing the
// usage's revision is what keeps placements from overlapping, however many schedulers run. It never
// moves a machine because its host is silent.
package scheduler
