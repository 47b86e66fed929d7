"""The only definition of the resource. The CRD, offline validation and the planner's input are derived from it."""
