//go:build tools

// Names the program to build, so that go.sum covers all that it needs.
package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
