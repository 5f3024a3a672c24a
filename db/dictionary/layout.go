package main

import (
	"bytes"
	"strings"
)

// element is an XML element: a name, then either text or children.
type element struct {
	name       string
	attributes string
	text       string
	children   []element
}

func leaf(name, text string) element { return element{name: name, text: text} }

func group(name string, children ...element) element {
	return element{name: name, children: children}
}

// layout is how a program writes XML.
type layout struct {
	declaration string
	newline     string // between elements
	indent      string // for each level
}

// layouts are in use by invoicing software. The fast compression finds best what
// comes last, so those are last that take the most room.
var layouts = []layout{
	{declaration: `<?xml version="1.0" encoding="utf-8"?>`, newline: "\r\n", indent: "\t"},
	{declaration: `<?xml version="1.0" encoding="utf-8"?>`, newline: "\r\n", indent: "  "},
	{declaration: `<?xml version="1.0" encoding="UTF-8"?>`, newline: "\n", indent: "\t"},
	{declaration: `<?xml version="1.0" encoding="utf-8"?>`},
	{declaration: `<?xml version="1.0" encoding="UTF-8"?>`, newline: "\n", indent: "  "},
	{declaration: `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>`, newline: "\n", indent: "    "},
}

func (l layout) render(root element) []byte {
	var b bytes.Buffer
	b.WriteString(l.declaration)
	b.WriteString(l.newline)
	l.write(&b, root, 0)
	b.WriteString(l.newline)
	return b.Bytes()
}

func (l layout) write(b *bytes.Buffer, e element, depth int) {
	b.WriteString("<" + e.name + e.attributes + ">")
	b.WriteString(strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(e.text))
	for _, child := range e.children {
		b.WriteString(l.newline + strings.Repeat(l.indent, depth+1))
		l.write(b, child, depth+1)
	}
	if len(e.children) > 0 {
		b.WriteString(l.newline + strings.Repeat(l.indent, depth))
	}
	b.WriteString("</" + e.name + ">")
}
