//go:build tools

// Names the program to build, so that go.sum covers all that it needs.
package tools

import _ "go.etcd.io/etcd/server/v3"
