-- A link between files of the repository becomes a link between pages of the site (build.cmake says which is which). pandoc runs in the repository's
-- root, so the input's name is the page's path.
local function folder_of(path) return path:match("^(.*/)") or "" end
local function site_path(path)
  if path == "README.md" then return "readme.html" end
  return path:match("^docs/(.*)%.md$") and path:match("^docs/(.*)%.md$") .. ".html" or path:match("^docs/(figures/.*%.svg)$") or "source/" .. path .. ".html"
end
local page = PANDOC_STATE.input_files[1]

local function on_site(target)
  if target:match("^%a+:") or target:match("^#") then return target end
  local file, anchor = target:match("^([^#]*)(.*)$")
  local parts = {}
  for part in (folder_of(page) .. file):gmatch("[^/]+") do
    if part == ".." then table.remove(parts) elseif part ~= "." then table.insert(parts, part) end
  end
  local up = folder_of(site_path(page)):gsub("[^/]+/", "../")
  return up .. site_path(table.concat(parts, "/")) .. anchor
end

function Link(link) link.target = on_site(link.target) return link end
function Image(image) image.src = on_site(image.src) return image end
