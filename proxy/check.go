package proxy

// Problem is something wrong, or odd, in a Config.
type Problem struct {
	Path    string // where, in the words of routes.yaml: "routes[2].to[0]", "sources.main.path"
	Text    string // what is wrong, and what to do
	Warning bool   // the gateway works with it
}
