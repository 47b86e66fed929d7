"""The resource: its only definition, from which the CRD, the offline verdict and the planner's input follow."""
