package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
)

// A structType is an exported struct of a package and its comment.
type structType struct {
	dir, pkg, name string // "switch/overlay", "overlay", "Config"
	comment        string
	fields         []field
}

// A field is an exported field of a struct.
type field struct {
	name, key string // key is the TOML key, "" without one
	goType    string
	comment   string
}

// parsePackage returns the structs of the package in dir, by name. Tests are left out.
func parsePackage(root, dir string) (map[string]structType, error) {
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil {
		return nil, err
	}
	structs := map[string]structType{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range file.Decls {
			declared, ok := d.(*ast.GenDecl)
			if !ok || declared.Tok != token.TYPE {
				continue
			}
			for _, spec := range declared.Specs {
				spec := spec.(*ast.TypeSpec)
				if s, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = structType{
						dir: dir, pkg: file.Name.Name, name: spec.Name.Name,
						comment: oneLine(declared.Doc), fields: fieldsOf(positions, s),
					}
				}
			}
		}
	}
	return structs, nil
}

// fieldsOf returns the fields of a struct. A field without a comment, on the line after a
// commented field, refers to that field's comment.
func fieldsOf(positions *token.FileSet, s *ast.StructType) []field {
	var all []field
	commented, line := "", 0 // the last field with a comment, and the line of the last field
	for _, f := range s.Fields.List {
		comment := oneLine(f.Doc)
		if comment == "" {
			comment = oneLine(f.Comment)
		}
		if comment == "" && commented != "" && positions.Position(f.Pos()).Line == line+1 {
			comment = "See `" + commented + "`."
		} else {
			commented = ""
		}
		line = positions.Position(f.End()).Line
		key := ""
		if f.Tag != nil {
			key = reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("toml")
		}
		for _, name := range f.Names {
			if f.Doc != nil {
				commented = cmp.Or(key, name.Name)
			}
			if name.IsExported() {
				all = append(all, field{name: name.Name, key: key, goType: types.ExprString(f.Type), comment: comment})
			}
		}
	}
	return all
}

// oneLine returns the text of a comment as a sentence, without line breaks inside paragraphs.
func oneLine(c *ast.CommentGroup) string {
	paragraphs := strings.Split(strings.TrimSpace(c.Text()), "\n\n")
	for i, p := range paragraphs {
		paragraphs[i] = strings.Join(strings.Fields(p), " ")
	}
	text := strings.Join(paragraphs, "\n\n")
	if text == "" {
		return ""
	}
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// configs returns every exported struct below root whose name ends in Config, ordered by
// directory and name.
func configs(root string) ([]structType, error) {
	var all []structType
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "docs") {
			return filepath.SkipDir
		}
		dir, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		structs, err := parsePackage(root, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		for _, name := range sortedKeys(structs) {
			if ast.IsExported(name) && strings.HasSuffix(name, "Config") {
				all = append(all, structs[name])
			}
		}
		return nil
	})
	return all, err
}
