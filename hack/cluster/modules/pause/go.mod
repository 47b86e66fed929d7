module evolution-operator/hack/cluster/modules/pause

go 1.26
