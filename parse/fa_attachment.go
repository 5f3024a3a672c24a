package parse

import "github.com/antchfx/xmlquery"

// attachment reads Zalacznik of FA(3). The elements of the whole document bound how
// many cells there can be.
func (r *reader) attachment(attachment *xmlquery.Node) {
	r.doc.HasAttachment = true
	for n := range r.children(attachment) {
		if n.Data != "BlokDanych" || !r.enterRow(n) {
			continue
		}
		title, block := r.block(n)
		r.doc.Attachments = append(r.doc.Attachments, Attachment{Kind: "fa_block", Position: r.position, Title: title, Block: block})
		r.leaveRow()
	}
}

func (r *reader) block(block *xmlquery.Node) (title string, b *Block) {
	b = &Block{}
	for n := range r.children(block) {
		switch n.Data {
		case "ZNaglowek":
			title = text(n)
		case "MetaDane":
			b.Metadata = append(b.Metadata, KeyValue{r.childText(n, "ZKlucz"), r.childText(n, "ZWartosc")})
		case "Tekst":
			b.Paragraphs = append(b.Paragraphs, r.texts(n, "Akapit")...)
		case "Tabela":
			b.Tables = append(b.Tables, r.table(n))
		}
	}
	return title, b
}

func (r *reader) table(table *xmlquery.Node) Table {
	var t Table
	for n := range r.children(table) {
		switch n.Data {
		case "TMetaDane":
			t.Metadata = append(t.Metadata, KeyValue{r.childText(n, "TKlucz"), r.childText(n, "TWartosc")})
		case "Opis":
			t.Description = text(n)
		case "TNaglowek":
			for column := range r.children(n) {
				t.Columns = append(t.Columns, Column{r.childText(column, "NKom"), attribute(column, "Typ")})
			}
		case "Wiersz":
			t.Rows = append(t.Rows, r.texts(n, "WKom"))
		case "Suma":
			t.Sums = r.texts(n, "SKom")
		}
	}
	return t
}

// texts gives the text of every element of a name inside n, the empty ones too:
// they hold the place of a cell.
func (r *reader) texts(n *xmlquery.Node, name string) []string {
	list := []string{}
	for child := range r.children(n) {
		if child.Data == name {
			list = append(list, text(child))
		}
	}
	return list
}
